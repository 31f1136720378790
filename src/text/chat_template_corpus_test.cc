// Every shared chat template on every shared conversation, against what Jinja2
// 3.1.6 made of it.
#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/json_full.h"
#include "text/chat_template.h"

namespace ashlar::text {
namespace {

const std::filesystem::path kFolder = "../shared/data/templates";

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The clock of the reference renderings.
std::time_t noon_thirty() {
  std::tm local{};
  local.tm_year = 126, local.tm_mon = 6, local.tm_mday = 4, local.tm_hour = 12, local.tm_min = 30, local.tm_isdst = -1;
  return std::mktime(&local);
}

void check(const std::string& name, const std::string& context_name, const ChatTemplate& parsed, const Json& context) {
  const auto expected = kFolder / "expected" / (name + "." + context_name + ".txt");
  const auto refused = kFolder / "expected" / (name + "." + context_name + ".error.json");
  const auto text = parsed.render(context, noon_thirty());
  if (std::filesystem::exists(expected)) {
    ASSERT_TRUE(text) << name << " " << context_name << ": " << text.error().message;
    EXPECT_EQ(*text, read(expected)) << name << " " << context_name;
  } else {
    ASSERT_FALSE(text) << name << " " << context_name;
    const auto reason = parse_json(read(refused));
    ASSERT_TRUE(reason) << refused;
    EXPECT_NE(text.error().message.find((*reason)["message"].get<std::string>()), std::string::npos)
        << name << " " << context_name << ": " << text.error().message;
    EXPECT_EQ(text.error().code, Code::invalid);
  }
}

TEST(ChatTemplateCorpus, RendersAsJinjaDoes) {
  if (!std::filesystem::exists(kFolder)) GTEST_SKIP() << "no shared data";
  int templates = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".jinja") continue;
    const std::string name = entry.path().stem();
    const auto parsed = ChatTemplate::parse(read(entry.path()));
    ASSERT_TRUE(parsed) << name << ": " << parsed.error().message;
    for (const auto& conversation : std::filesystem::directory_iterator(kFolder / "contexts")) {
      const auto context = parse_json(read(conversation.path()));
      ASSERT_TRUE(context) << conversation.path();
      check(name, conversation.path().stem(), **parsed, *context);
    }
    ++templates;
  }
  EXPECT_GT(templates, 100);
}

}  // namespace
}  // namespace ashlar::text
