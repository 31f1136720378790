#include "net/http_text.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

namespace ashlar::net {
namespace {

using namespace std::chrono_literals;

TEST(HttpText, ReadsRetryAfter) {
  const auto now = std::chrono::system_clock::from_time_t(784111777);  // Sun, 06 Nov 1994 08:49:37 GMT
  EXPECT_EQ(parse_retry_after("3", now), 3000ms);
  EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), 10'000ms);
  EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:49:07 GMT", now), 0ms);
  EXPECT_EQ(parse_retry_after("Wed, 21 Oct 6321 07:28:00 GMT", now), 864'000'000ms);
  EXPECT_FALSE(parse_retry_after("soon", now));
  EXPECT_FALSE(parse_retry_after("-1", now));
}

TEST(HttpText, AnErrorsCodeIsAStringOrNull) {
  EXPECT_EQ(error_body(413, "a\"b"),
            R"({"error":{"message":"a\"b","type":"request_too_large","param":null,"code":null}})");
  EXPECT_EQ(error_body(400, "a"),
            R"({"error":{"message":"a","type":"invalid_request_error","param":null,"code":null}})");
  EXPECT_EQ(error_body(408, "a"), R"({"error":{"message":"a","type":"timeout_error","param":null,"code":null}})");
  EXPECT_EQ(error_body(500, "a"), R"({"error":{"message":"a","type":"server_error","param":null,"code":null}})");
  EXPECT_EQ(
      error_body(503, "a"),
      R"({"error":{"message":"a","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}})");
}

TEST(HttpText, WritesAFieldAsOneLine) {
  const auto written = [](std::string_view name, std::string_view value) {
    std::string head = "HTTP/1.1 200 OK\r\n";
    append_field(head, name, value);
    return head.substr(17);
  };
  EXPECT_EQ(written("x-a", "one\r\nx-b: two\tthree\x7f"), "x-a: one  x-b: two\tthree \r\n");
  EXPECT_EQ(written("x-a", ""), "x-a: \r\n");
  for (const char* name : {"", "Content-Length", "transfer-encoding", "connection", "date", "x a", "x\r\n", "x:"})
    EXPECT_EQ(written(name, "1"), "") << name;
}

TEST(HttpText, ReadsAFieldsNameInSmallLetters) {
  Headers headers;
  EXPECT_EQ(parse_field("X-Request-ID:  Ab ", headers), nullptr);
  EXPECT_EQ(headers, (Headers{{"x-request-id", "Ab"}}));
  for (const std::string& line :
       std::vector<std::string>{": a", "x y: a", "x\xc3\xa4: a", std::string("x\0: a", 5), " x: a", "x a", "x: a\x01"})
    EXPECT_NE(parse_field(line, headers), nullptr) << line;
  EXPECT_EQ(headers.size(), 1);
}

TEST(HttpText, TakesItemsOffAList) {
  std::string_view rest = " no-cache,max-age=3 ,, x";
  std::vector<std::string> items;
  while (!rest.empty()) items.emplace_back(take_item(rest));
  EXPECT_EQ(items, (std::vector<std::string>{"no-cache", "max-age=3", "", "x"}));
  EXPECT_TRUE(has_word("Keep-Alive, Upgrade", "upgrade"));
  EXPECT_FALSE(has_word("Keep-Alive, Upgraded", "upgrade"));
}

}  // namespace
}  // namespace ashlar::net
