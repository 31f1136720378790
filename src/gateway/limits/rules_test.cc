#include "gateway/limits/rules.h"

#include <gtest/gtest.h>

#include <set>

namespace ashlar::gateway {
namespace {

std::int64_t utc(int year, unsigned month, unsigned day) {
  using namespace std::chrono;
  return duration_cast<milliseconds>(sys_days(std::chrono::year(year) / month / day).time_since_epoch()).count();
}

TEST(Prices, CostsAreExactAndRoundedUpOnceARequest) {
  // $2.50 and $1.25 for input, $10 for output, a million tokens each.
  const Price price{.input = 2'500'000'000,
                    .cached_input = 1'250'000'000,
                    .cache_write = 2'500'000'000,
                    .output = 10'000'000'000,
                    .reasoning = 10'000'000'000};
  EXPECT_EQ(cost_of(price, {.prompt = 1000, .cached = 400, .completion = 200}), 600 * 2500 + 400 * 1250 + 200 * 10'000);
  const Price small{.input = 37'500, .output = 1, .reasoning = 1};  // $0.0000375 and a billionth for a million tokens
  EXPECT_EQ(cost_of(small, {.prompt = 1}), 1) << "0.0375 nano-dollars";
  EXPECT_EQ(cost_of(small, {.prompt = 80}), 3);
  EXPECT_EQ(cost_of(small, {.prompt = 80, .completion = 1}), 4);
  EXPECT_EQ(cost_of(small, {}), 0);
  const Price reasoning{.output = 1'000'000, .reasoning = 3'000'000};
  EXPECT_EQ(cost_of(reasoning, {.completion = 10, .reasoning = 4}), 6 * 1 + 4 * 3);
  EXPECT_EQ(cost_of(reasoning, {.completion = 10, .reasoning = 99}), 30) << "no more reasoning than completion";
  EXPECT_EQ(cost_of(reasoning, {.prompt = -5, .completion = -5}), 0);
  EXPECT_EQ(cost_of({.input = store::kMostAmount}, {.prompt = INT64_MAX}), store::kMostAmount) << "and no overflow";
}

TEST(Prices, WritesForAnHourHaveTheirOwnPriceFromItsDayOn) {
  // As Anthropic asks of Sonnet: 1.25 times the input's price for five minutes, twice for an hour.
  const auto config = read_limits(R"(
prices:
  - {model: sonnet, input: 3, cached_input: 0.30, cache_write: 3.75, output: 15}
  - {model: sonnet, from: 2026-11-01, input: 3, cached_input: 0.30, cache_write: 3.75, cache_write_1h: 6, output: 15}
  - {model: plain, input: 3, output: 15})");
  ASSERT_TRUE(config) << config.error().message;
  const TokenUse use{.prompt = 1000, .cached = 100, .written = 500, .hour = 200, .completion = 10};
  const auto cost = [&](const char* model, unsigned month, unsigned day, const TokenUse& of) {
    return cost_of(*config->prices.find(model, utc(2026, month, day)), of);
  };
  const std::int64_t others = 400 * 3000 + 100 * 300 + 10 * 15'000;
  EXPECT_EQ(cost("sonnet", 10, 31, use), others + 500 * 3750) << "as any other write";
  EXPECT_EQ(cost("sonnet", 11, 1, use), others + 300 * 3750 + 200 * 6000);
  EXPECT_EQ(cost("plain", 11, 1, use), 900 * 3000 + 100 * 3000 + 10 * 15'000);
  EXPECT_EQ(cost("sonnet", 11, 1, {.prompt = 10, .written = 4, .hour = 9}), 6 * 3000 + 4 * 6000)
      << "no more for an hour than was written";
  EXPECT_EQ(most_cost_of(*config->prices.find("sonnet", utc(2026, 11, 2)), 10, 0), 10 * 6000);
}

TEST(Prices, TheMostARequestCanCostIsNeverLess) {
  const Price odd{.input = 7'777,
                  .cached_input = 9'999,
                  .cache_write = 8'888,
                  .output = 12'345,
                  .reasoning = 54'321};  // cached costs more here
  for (std::int64_t prompt = 0; prompt < 40; ++prompt)
    for (std::int64_t cached = 0; cached <= prompt; cached += 3)
      for (std::int64_t written = 0; cached + written <= prompt; written += 4)
        for (std::int64_t completion = 0; completion < 40; completion += 7)
          for (std::int64_t reasoning = 0; reasoning <= completion; reasoning += 5)
            ASSERT_LE(cost_of(odd, {.prompt = prompt,
                                    .cached = cached,
                                    .written = written,
                                    .completion = completion,
                                    .reasoning = reasoning}),
                      most_cost_of(odd, prompt, completion));
}

TEST(Prices, DollarsAreReadExactly) {
  EXPECT_EQ(parse_dollars("2.50"), 2'500'000'000);
  EXPECT_EQ(parse_dollars("0.000000001"), 1);
  EXPECT_EQ(parse_dollars("9000000"), 9'000'000'000'000'000);
  for (const char* wrong :
       {"", "-1", "1e3", ".5", "5.", "1.0000000001", "9000000.1", "90000000", "$1", "1 ", "0x1", "nan"})
    EXPECT_FALSE(parse_dollars(wrong)) << wrong;
}

TEST(Prices, HoldFromTheirDayOnAndByTheLongestName) {
  PriceTable table;
  const auto day = [](int y, unsigned m, unsigned d) { return std::chrono::sys_days(std::chrono::year(y) / m / d); };
  table.add("gpt-x", day(2025, 1, 1), {.input = 1});
  table.add("gpt-x", day(2026, 3, 1), {.input = 2});
  table.add("gpt-*", day(2025, 1, 1), {.input = 3});
  table.add("*", day(2025, 6, 1), {.input = 4});
  EXPECT_EQ(table.find("gpt-x", utc(2026, 3, 1) - 1)->input, 1);
  EXPECT_EQ(table.find("gpt-x", utc(2026, 3, 1))->input, 2);
  EXPECT_EQ(table.find("gpt-xl", utc(2026, 3, 1))->input, 3);
  EXPECT_EQ(table.find("qwen", utc(2026, 3, 1))->input, 4);
  EXPECT_EQ(table.find("qwen", utc(2025, 5, 31)), nullptr);
  EXPECT_EQ(table.find("gpt-x", utc(2024, 12, 31)), nullptr);
  EXPECT_EQ(table.find(std::string(1'000'000, 'x'), utc(2026, 3, 1))->input, 4);
}

TEST(Rules, TheFieldsFiguresAreTheProfile) {
  LimitsConfig config{.rules = *limits_profile("field"), .caps = {}, .prices = {}};
  sort_rules(config);
  const auto applied = rules_for(config, {.key = "k", .user = "ann", .team = "prod", .tenant = "t", .tags = {}}, "m");
  std::set<std::string> keys;
  for (const Applied& one : applied) keys.insert(one.limit.key);
  EXPECT_EQ(keys, (std::set<std::string>{"user:ann:tpm:60000", "user:ann:tpd:86400000", "model:m:concurrency:30000",
                                         "global:tps:1000", "team:prod:rph:3600000"}));
  for (const Rule& rule : config.rules) EXPECT_TRUE(check_rule(rule)) << rule.name;
  EXPECT_TRUE(limits_profile("none")->empty());
  EXPECT_FALSE(limits_profile("other"));
}

TEST(Rules, WhoIsNamedHasHisOwn) {
  auto config = read_limits(R"(
profile: field
limits:
  - {scope: user, who: ann, name: tpm, kind: token_bucket, capacity: 5000, period: 1m}
  - {scope: tag, who: tier=free, name: free, capacity: 100, period: 1h}
  - {scope: key, model: big, name: rpm, measure: requests, capacity: 3, period: 1m}
)");
  ASSERT_TRUE(config) << config.error().message;
  sort_rules(*config);
  const auto tpm = [&](const Subject& subject) {
    for (const Applied& one : rules_for(*config, subject, "m"))
      if (one.rule->name == "tpm") return one.limit;
    return store::Limit{};
  };
  EXPECT_EQ(tpm({.user = "ann"}).capacity, 5000);
  EXPECT_EQ(tpm({.user = "bob"}).capacity, 1000);
  EXPECT_EQ(tpm({.key = "k7"}).key, "user:k7:tpm:60000") << "a user that nobody knows is his key";
  EXPECT_EQ(tpm({}).key, "user:anonymous:tpm:60000");
  EXPECT_EQ(tpm({.user = "a b\n{x}"}).key.find_first_of(" \n{"), std::string::npos) << "names are anybody's choice";
  EXPECT_NE(tpm({.user = std::string(5000, 'x')}).key, tpm({.user = std::string(5001, 'x')}).key);
  EXPECT_EQ(rules_for(*config, {.key = "k", .user = "u"}, "m").size(), 4u);
  EXPECT_EQ(rules_for(*config, {.key = "k", .user = "u"}, "big").size(), 5u);
  EXPECT_EQ(rules_for(*config, {.user = "u", .tags = {{"tier", "free"}}}, "m").size(), 5u);
  EXPECT_EQ(rules_for(*config, {.user = "u", .tags = {{"tier", "paid"}, {"tie", "r=free"}}}, "m").size(), 4u);
}

TEST(Rules, CapsOfAnAnswerTheShortestHolds) {
  const auto config = read_limits(R"({"output_caps": [
    {"scope": "global", "tokens": 4000}, {"scope": "key", "who": "k", "tokens": 300}, {"scope": "tag", "who": "tier=free", "tokens": 100}]})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(output_cap(*config, {}, "m"), 4000);
  EXPECT_EQ(output_cap(*config, {.key = "k"}, "m"), 300);
  EXPECT_EQ(output_cap(*config, {.key = "k", .tags = {{"tier", "free"}}}, "m"), 100);
  EXPECT_EQ(output_cap({}, {}, "m"), std::nullopt);
}

TEST(Rules, AConfigurationIsReadWhole) {
  const auto config = read_limits(R"(
limits:
  - {scope: team, who: search, name: month, kind: budget, dollars: "100.50", window: month, alerts: [80, 100]}
  - {scope: model, name: seats, kind: semaphore, capacity: 4}
prices:
  - {model: gpt-x, from: 2026-03-01, input: 2.5, cached_input: 1.25, output: 10}
refuse_unpriced: true
)");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rules[0].capacity, 100'500'000'000);
  EXPECT_EQ(config->rules[0].calendar, store::Calendar::month);
  EXPECT_EQ(config->rules[0].alerts, (std::vector{80, 100}));
  EXPECT_EQ(config->rules[1].period, std::chrono::seconds(30));
  EXPECT_EQ(*config->prices.find("gpt-x", utc(2026, 4, 1)), (Price{.input = 2'500'000'000,
                                                                   .cached_input = 1'250'000'000,
                                                                   .cache_write = 2'500'000'000,
                                                                   .output = 10'000'000'000,
                                                                   .reasoning = 10'000'000'000,
                                                                   .cache_write_1h = 2'500'000'000}));
  EXPECT_TRUE(config->refuse_unpriced);
  EXPECT_TRUE(read_limits(""));
}

TEST(Rules, WhatIsWrongInAConfigurationIsSaidWithItsLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"limits: 3", "limits:1: 'limits' should be a list"},
      {"limit: []", "has no 'limit'; did you mean 'limits'"},
      {"profile: mine", "no profile 'mine'"},
      {"limits:\n  - {scope: user, name: a, capacity: -1, period: 1m}", "limits:2: "},
      {"limits:\n  - {scope: user, name: a, capacity: 1e3, period: 1m}", "whole number"},
      {"limits:\n  - {scope: user, name: a, capacity: 1, period: never}", "period"},
      {"limits:\n  - {scope: user, name: a, capacity: 1, period: 0s}", "limits:2: limit 'a': the period of 0 ms"},
      {"limits:\n  - {scope: house, name: a, capacity: 1, period: 1m}", "'scope' should be one of"},
      {"limits:\n  - {scope: user, name: 'A b', capacity: 1, period: 1m}", "name"},
      {"limits:\n  - {scope: user, name: a, name: b, capacity: 1, period: 1m}", "twice"},
      {"limits:\n  - {scope: tag, who: free, name: a, capacity: 1, period: 1m}", "NAME=VALUE"},
      {"limits:\n  - {scope: user, name: a, kind: budget, dollars: -3}", "dollars"},
      {"limits:\n  - {scope: user, name: a, kind: budget, dollars: 3, alerts: [0]}", "from 1 to 100"},
      {"limits:\n  - {scope: user, name: a, capacity: 1, period: 1m, alerts: [50]}", "only budgets"},
      {"limits:\n  - {scope: user, name: a, kind: token_bucket, capacity: 9007199254740991, period: 1h}", "too large"},
      {"prices:\n  - {model: m, from: 2026-02-30}", "'from' should be a day"},
      {"prices:\n  - {model: m, input: free}", "input"},
      {"prices:\n  - [1, 2]", "`name: value` pairs"},
      {"limits: [", "limits:"},
      {"? [a, b]\n: c", "should be a word"},
  };
  for (const auto& [text, why] : cases) {
    const auto config = read_limits(text);
    ASSERT_FALSE(config) << text;
    EXPECT_NE(config.error().message.find(why), std::string::npos) << text << ": " << config.error().message;
  }
  const auto both =
      read_limits("limits:\n  - {scope: user, nam: a}\n  - {name: b}\nprices: [{model: m, input: x}]", "l.yaml");
  ASSERT_FALSE(both);
  for (const char* fault :
       {"l.yaml:2: a limit has no 'nam'; did you mean 'name'", "l.yaml:3: a limit needs 'scope'", "l.yaml:4: 'input'"})
    EXPECT_NE(both.error().message.find(fault), std::string::npos) << both.error().message;
  EXPECT_FALSE(read_limits(std::string(2 << 20, ' ')));
  EXPECT_FALSE(read_limits(std::string(100'000, '[')));
  EXPECT_FALSE(read_limits("a: &a [x, x]\nb: &b [*a, *a]\nlimits: [*b, *b]"));
}

}  // namespace
}  // namespace ashlar::gateway
