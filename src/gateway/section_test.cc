#include "gateway/section.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "gateway/identity/identity.h"
#include "gateway/limits/rules.h"
#include "gateway/routing/read_routes.h"
#include "gateway/upstreams/options.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kUpstreams = R"(upstreams:
  - &one
    name: one
    url: http://127.0.0.1:1/v1
    api_key: env:KEY
    headers: {x-team: "a"}
    models: [m, {name: n, model: "o/p"}]
    max_answer: 1MiB
    retry_budget: 0.5
    http2: always
  - {name: two, kind: anthropic, api_key: "file:/run/key", total_timeout: 5m}
)";
constexpr const char* kRoutes = R"(routes:
  - name: chat
    strategy: latency
    aliases: [gpt, small]
    target: {first_token: 1s, between_tokens: 50ms}
    deployments: [one/m, {model: two/x, weight: 2, data_classes: [secret]}]
    fallbacks: {error: [other], context: other}
    rollout: {to: one/n, steps: [5%, 50%], gates: {error_rate: +1%, ttft_p95: 1.5x}, judge: {model: other, prompt: "{answer}?"}}
    shadow: {to: one/n, share: 5%}
  - {name: other, deployments: [one/n]}
  - {name: tiers, tiers: {low: chat, middle: chat, high: other}}
)";
constexpr const char* kLimits = R"(profile: none
limits:
  - {scope: user, name: rpm, measure: requests, capacity: 10, period: 1m}
  - {scope: team, who: red, name: money, kind: budget, dollars: 5.50, window: month, alerts: [50, 100]}
output_caps: [{scope: key, who: key_1, tokens: 100}]
prices: [{model: m, from: 2026-03-01, input: 0.15, output: 0.60}]
refuse_unpriced: true
)";
constexpr const char* kIdentity = R"(issuers:
  - issuer: https://login.example.com
    audience: [ashlar]
    claims: {user: email, roles: groups, priority: tier}
    roles: {admins: admin}
    priorities: {gold: -5}
certificates:
  - {match: "URI:spiffe://prod/ns/*", tenant: "$1", min_priority: -1}
policy:
  - {name: nights, effect: deny, when: {role: app, time: {from: "22:00", to: "06:00", days: [sat]}, tags: {tier: free}}}
)";

struct Reader {
  const char* name;
  const char* text;
  std::function<Status(const std::string&)> read;
};

template <class T>
Status status_of(const Result<T>& read) {
  return read ? Status() : std::unexpected(read.error());
}

const std::vector<Reader>& readers() {
  static const std::vector<Reader> all = {
      {"upstreams", kUpstreams, [](const std::string& text) { return status_of(parse_upstreams(text, "f")); }},
      {"routes", kRoutes, [](const std::string& text) { return status_of(parse_routes(text, "f")); }},
      {"limits", kLimits, [](const std::string& text) { return status_of(read_limits(text, "f")); }},
      {"identity", kIdentity, [](const std::string& text) { return status_of(parse_identity_config(text, "f")); }}};
  return all;
}

TEST(Section, EveryReaderTellsFaultsOfFormOnceEach) {
  for (const Reader& each : readers()) {
    const Status fine = each.read(each.text);
    ASSERT_TRUE(fine) << each.name << ": " << fine.error().message;
    const auto lines = std::ranges::count(std::string_view(each.text), '\n');
    const auto why = [&](const std::string& more) {
      const Status read = each.read(each.text + more);
      return read ? "fine" : read.error().message;
    };
    EXPECT_THAT(why("---\nfurther: 1\n"), HasSubstr("a second document begins here")) << each.name;
    EXPECT_THAT(why("\xc3\n"), StartsWith(fmt::format("f:{}: the byte 0xc3 is no UTF-8", lines + 1))) << each.name;
    EXPECT_THAT(why("\tx: 1\n"), HasSubstr("a tab stands before it")) << each.name;
    EXPECT_THAT(why(fmt::format("{}:\n", std::string_view(each.text).substr(0, std::string_view(each.text).find(':')))),
                StartsWith(fmt::format("f:{}: '", lines + 1)))
        << each.name;
    EXPECT_THAT(why("<<: {a: b}\n"), HasSubstr("merge keys (<<) are not read")) << each.name;
    EXPECT_THAT(why("more: !secret x\n"), HasSubstr("the tag !secret is not read")) << each.name;
  }
}

// A file that is cut somewhere, or of which a byte is another, is read or refused with words, never worse.
TEST(Section, NoReaderFallsOverDamagedText) {
  std::mt19937 random(7);
  for (const Reader& each : readers()) {
    const std::string whole = each.text;
    for (std::size_t size = 0; size < whole.size(); ++size)
      if (const Status read = each.read(whole.substr(0, size)); !read)
        EXPECT_THAT(read.error().message, StartsWith("f:")) << each.name << ", cut at " << size;
    constexpr std::string_view kBytes = "{}[]:,-&*!|>'\"#%@\\ \n\t\xff?~0a<";
    for (int i = 0; i < 2000; ++i) {
      std::string text = whole;
      for (int j = 0; j < 3; ++j) text[random() % text.size()] = kBytes[random() % kBytes.size()];
      if (const Status read = each.read(text); !read) EXPECT_NE(read.error().message, "") << text;
    }
  }
}

TEST(Section, AValueOfAnotherKindIsToldAsWhatItIs) {
  const auto read = parse_upstreams(R"(upstreams:
  - name: [a]
    url: http://x
    max_attempts: 0x5
    retry_budget: .nan
    connect_timeout: {a: b}
    stream: 7
    max_answer: -1
    health_path:
    models: {a: b}
    headers: [a]
    max_tokens: 99999999999999999999
    api_version: ""
    region: "two\nlines"
)",
                                    "f");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().message, R"(f:2: 'name' should be a text of one line, not a list
f:2: an upstream needs a 'name', a word without '/'
f:4: 'max_attempts' should be a whole number from 1 to 10, not '0x5'
f:5: 'retry_budget' should be a number from 0 to 1, not '.nan'
f:6: 'connect_timeout' should be a time, as 5s, 250ms or 1m, not a map
f:7: 'stream' should be true or false, not '7'
f:8: 'max_answer' should be a size of at least 1024 bytes, as 64MiB, not '-1'
f:9: 'health_path' should be a text of one line, not nothing
f:10: 'models' should be a list, not a map
f:11: 'headers' should be `name: value` pairs, not a list
f:12: 'max_tokens' should be a whole number from 1 to 100000000, not '99999999999999999999'
f:13: 'api_version' should be a text of one line, not an empty text
f:14: 'region' should be a text of one line, not 'two?lines')");
}

TEST(Section, ManyFaultsAreNoMoreThanAHundredLines) {
  std::string text = "limits:\n";
  for (int i = 0; i < 5000; ++i) text += "  - {scope: house}\n";
  const auto read = read_limits(text, "f");
  ASSERT_FALSE(read);
  EXPECT_EQ(std::ranges::count(read.error().message, '\n'), 100);
  EXPECT_THAT(read.error().message, HasSubstr("and more: these are the first 100"));
}

TEST(ConfigText, AnEmptyFileIsNoConfiguration) {
  const std::string path = std::filesystem::temp_directory_path() / fmt::format("ashlar_section_{}.yaml", getpid());
  const auto why = [&](const std::string& text) {
    std::ofstream(path) << text;
    const auto read = read_config_text(path);
    return read ? "read" : read.error().message;
  };
  EXPECT_THAT(why(""), HasSubstr("the file is empty; write {} where it is to say nothing"));
  EXPECT_THAT(why(" \n\n"), HasSubstr("the file is empty"));
  EXPECT_EQ(why("{}"), "read");
  EXPECT_EQ(why("# nothing yet\n"), "read");
  EXPECT_THAT(why(std::string(5 << 20, '#')), HasSubstr("larger than 4.0 MiB"));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace ashlar::gateway
