// Some 1,200 small templates against what Jinja2 made of them, set up as Hugging
// Face does. tests/data/jinja_cases.jsonl: the first line names the contexts; each
// other line is {"group", "context", "template", "expected"} or, instead of the
// last, "error": what the message must contain.
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <string>

#include "base/json_full.h"
#include "text/chat_template.h"

namespace ashlar::text {
namespace {

TEST(ChatTemplateLanguage, AgreesWithJinja2) {
  std::ifstream file("tests/data/jinja_cases.jsonl");
  ASSERT_TRUE(file) << "run from the root of the repository";
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  const auto contexts = parse_json(line);
  ASSERT_TRUE(contexts) << contexts.error().message;
  std::tm local{};
  local.tm_year = 126, local.tm_mon = 6, local.tm_mday = 4, local.tm_hour = 12, local.tm_min = 30, local.tm_isdst = -1;
  const std::time_t now = std::mktime(&local);
  int cases = 0;
  while (std::getline(file, line)) {
    const auto one = parse_json(line);
    ASSERT_TRUE(one) << line;
    const auto source = (*one)["template"].get<std::string>();
    SCOPED_TRACE((*one)["group"].get<std::string>() + ": " + source);
    const auto parsed = ChatTemplate::parse(source);
    const auto text = parsed ? (*parsed)->render((*contexts)[(*one)["context"].get<std::string>()], now)
                             : Result<std::string>(parsed.error());
    if (one->contains("expected")) {
      EXPECT_TRUE(text) << text.error().message;
      if (text) EXPECT_EQ(*text, (*one)["expected"].get<std::string>());
    } else {
      EXPECT_FALSE(text) << *text;
      const auto reason = (*one)["error"].get<std::string>();
      if (!text) EXPECT_NE(text.error().message.find(reason), std::string::npos) << text.error().message;
    }
    ++cases;
  }
  EXPECT_GT(cases, 1000);
}

}  // namespace
}  // namespace ashlar::text
