#include "gateway/rollout/judge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/json_full.h"
#include "gateway/routing/read_routes.h"

namespace ashlar::gateway {
namespace {

// Looked at after every request, of a thousand: the bound of Ville's inequality, and what a test of each look by
// itself would do.
TEST(Judge, BetsAreRarelyWonByChanceHoweverOftenOneLooks) {
  std::mt19937_64 draws(1);
  int fooled = 0;
  for (int run = 0; run < 1000; ++run) {
    std::bernoulli_distribution fails(0.03);
    int hits = 0;
    for (int n = 1; n <= 1000; ++n) {
      hits += fails(draws) ? 1 : 0;
      if (evidence_above(hits, n, 0.03) < 20) continue;  // 1 in 20
      ++fooled;
      break;
    }
  }
  EXPECT_LE(fooled, 50 + 20);
}

TEST(Judge, BetsAgreeWithTheRatioThatTheyAreMadeOf) {
  EXPECT_EQ(evidence_above(0, 100, 0.1), 0);
  EXPECT_GT(evidence_above(20, 60, 0.02), 1 / kFalseAlarm);
  EXPECT_LT(evidence_above(1, 10, 0.02), 1 / kFalseAlarm);
  EXPECT_LT(evidence_above(2, 100, 0.02), 1);
  double sum = 0;
  for (const double bet : {0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9}) {
    const double p = 0.1 + 0.9 * bet;
    sum += std::pow(p / 0.1, 3) * std::pow((1 - p) / 0.9, 2) / 7;
  }
  EXPECT_NEAR(evidence_above(3, 5, 0.1), sum, 1e-9);
}

TEST(Judge, WilsonsIntervalIsAsPublished) {
  EXPECT_NEAR(upper_share(0, 10, 1.959964), 0.2775, 1e-4);
  EXPECT_NEAR(upper_share(1, 10, 1.959964), 0.4042, 1e-4);
  EXPECT_EQ(upper_share(0, 0, 3), 1);
}

TEST(Judge, QuantilesAreRightToWithinABucket) {
  Latencies times;
  for (int i = 1; i <= 1000; ++i) times.add(i / 1000.0);
  for (const double q : {0.5, 0.95, 0.99}) EXPECT_NEAR(times.quantile(q), q, 0.051 * q);
  EXPECT_NEAR(static_cast<double>(times.above(0.9)), 100, 46);
  EXPECT_LE(times.above(0.9), 100);
  Latencies again;
  again.read(times.json());
  EXPECT_EQ(again.count(), 1000);
  EXPECT_EQ(again.quantile(0.95), times.quantile(0.95));
  again.read(Json::parse(R"([[1], "x", [-5, 1e99], [100000, 1], [3, -7]])"));
  EXPECT_EQ(again.count(), 0);
  for (const double odd : {0.0, -1.0, 1e300, std::nan("")}) again.add(odd);
  EXPECT_EQ(again.count(), 4);
}

Samples side(int requests, int errors, double seconds) {
  Samples out;
  out.requests = requests;
  out.errors = errors;
  for (int i = errors; i < requests; ++i) {
    out.first_token.add(seconds * (1 + i % 10 / 20.0));
    out.between_tokens.add(seconds / 10);
  }
  return out;
}

GateVerdict::State state_of(const std::vector<GateVerdict>& verdicts, std::string_view gate) {
  for (const auto& each : verdicts)
    if (each.gate == gate) return each.state;
  ADD_FAILURE() << gate;
  return GateVerdict::State::undecided;
}

TEST(Judge, SaysWhichGateFails) {
  using enum GateVerdict::State;
  const RolloutPlan plan;
  const Samples stable = side(5000, 50, 0.2);
  auto verdicts = judge(plan, side(60, 1, 0.2), stable, true);
  for (const auto& each : verdicts) EXPECT_EQ(each.state, passes) << each.gate << ": " << each.why;
  verdicts = judge(plan, side(60, 1, 0.4), stable, true);
  EXPECT_EQ(state_of(verdicts, "error_rate"), passes);
  EXPECT_EQ(state_of(verdicts, "ttft_p95"), fails);
  EXPECT_EQ(state_of(verdicts, "itl_p95"), fails);
  verdicts = judge(plan, side(60, 20, 0.2), stable, true);
  EXPECT_EQ(state_of(verdicts, "error_rate"), fails);
  verdicts = judge(plan, side(20, 0, 0.2), stable, true);
  EXPECT_EQ(state_of(verdicts, "error_rate"), undecided);
  // Nothing to compare with, and nothing more to come.
  verdicts = judge(plan, side(60, 1, 0.2), {}, false);
  for (const auto& each : verdicts) EXPECT_EQ(each.state, passes) << each.gate;
  verdicts = judge(plan, side(60, 59, 0.2), {}, false);
  EXPECT_EQ(state_of(verdicts, "error_rate"), fails);
}

TEST(Judge, AnswersOfOneTokenHaveNoTimeBetweenThem) {
  using enum GateVerdict::State;
  Samples stable = side(500, 0, 0.2), canary = side(100, 0, 0.2);
  stable.between_tokens = canary.between_tokens = {};
  EXPECT_EQ(state_of(judge({}, canary, stable, true), "itl_p95"), passes);
}

TEST(ReadRollout, TakesWhatThePageShows) {
  const auto table = parse_routes(R"(
routes:
  - name: chat
    deployments: [old, {model: older, label: ancient}]
    rollout:
      to: fast/new
      version: "2"
      steps: [1%, 0.05, 25%, 50%, 100%]
      hold: 90s
      minimum_requests: 30
      sticky: false
      gates: {error_rate: +2%, ttft_p95: off, itl_p50: 2x, score: -0.1}
      on_finish: wait
      begin: manual
    shadow: {to: other, share: 10%, keep_texts: true, data_classes: sensitive}
)",
                                  "f");
  ASSERT_TRUE(table.has_value()) << table.error().message;
  const Group& group = table->groups.front();
  ASSERT_TRUE(group.rollout && group.shadow);
  EXPECT_EQ(group.rollout->to, "chat/fast/new");
  EXPECT_EQ(group.rollout->version, "2");
  EXPECT_EQ(group.rollout->steps, (std::vector{0.01, 0.05, 0.25, 0.5, 1.0}));
  EXPECT_EQ(group.rollout->hold, std::chrono::seconds(90));
  EXPECT_FALSE(group.rollout->sticky || group.rollout->promote || group.rollout->automatic);
  EXPECT_DOUBLE_EQ(*group.rollout->gates.error_rate, 0.02);
  EXPECT_DOUBLE_EQ(*group.rollout->gates.score, 0.1);
  ASSERT_EQ(group.rollout->gates.latencies.size(), 2u);
  EXPECT_EQ(group.rollout->gates.latencies[1].quantile, 0.5);
  EXPECT_EQ(group.rollout->gates.latencies[1].ratio, 2);
  EXPECT_DOUBLE_EQ(group.shadow->share, 0.1);
  EXPECT_EQ(group.shadow->data_classes, std::vector<std::string>{"sensitive"});
  ASSERT_EQ(table->deployments.size(), 3u);
  EXPECT_EQ(table->deployments[0].label, "stable");
  EXPECT_EQ(table->deployments[1].label, "ancient");
  EXPECT_EQ(table->deployments[2].label, "canary");
  // One that stands there already, by its name.
  const auto named =
      parse_routes("routes:\n  - {name: c, deployments: [a, {model: b, name: x}], rollout: {to: x}}\n", "f");
  ASSERT_TRUE(named.has_value()) << named.error().message;
  EXPECT_EQ(named->deployments.size(), 2u);
  EXPECT_EQ(named->groups.front().rollout->to, "x");
  const auto map =
      parse_routes("routes:\n  - {name: c, rollout: {to: {model: b, max_concurrent: 3}}, deployments: [a]}\n", "f");
  ASSERT_TRUE(map.has_value()) << map.error().message;
  EXPECT_EQ(map->deployments.back().max_concurrent, 3);
}

TEST(ReadRollout, TellsEveryFaultWithItsLine) {
  const auto wrong = parse_routes(R"(routes:
  - name: chat
    deployments: [old]
    rollout:
      steps: [5%, 1%]
      hold: soon
      gates: {error_rate: high, ttft_p100: 2x, itl_p95: 0.5x, score: 0.1, taste: good}
      on_finish: celebrate
    shadow: {share: 200%}
  - {name: empty, rollout: {to: x}}
  - {name: t, tiers: {low: a, middle: b, high: c}, shadow: {to: x}}
)",
                                  "f");
  ASSERT_FALSE(wrong.has_value());
  for (const char* part :
       {"f:5: 'steps' should rise", "f:6: 'hold'", "f:7: 'error_rate' should be", "no gate is called 'ttft_p100'",
        "'itl_p95' should be", "'score' should be", "no gate is called 'taste'",
        "f:8: 'on_finish' should be promote or wait", "a rollout needs 'to'", "'share' should be",
        "a shadow needs 'to'", "f:10: a rollout needs 'deployments'", "f:11: a route with 'tiers'"})
    EXPECT_NE(wrong.error().message.find(part), std::string::npos) << part << "\n" << wrong.error().message;
}

}  // namespace
}  // namespace ashlar::gateway
