#include "gateway/limits/limits.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <random>
#include <thread>

#include "store/counters_for_test.h"

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;
using Kind = LimitRefusal::Kind;

class LimitsTest : public testing::Test {
 protected:
  void use(const std::string& text) {
    auto config = read_limits(text);
    ASSERT_TRUE(config) << config.error().message;
    auto made = Limits::create(std::move(*config), *counters,
                               {.clock = time.clock(), .on_alert = [this](const BudgetAlert& alert) {
                                  const std::lock_guard lock(mutex);
                                  alerts.push_back(alert);
                                  told.notify_all();
                                }});
    ASSERT_TRUE(made) << made.error().message;
    limits = std::move(*made);
  }
  std::expected<Limits::Admission, LimitRefusal> admit(std::int64_t prompt, std::int64_t most,
                                                       Subject subject = {.user = "ann"}, int answers = 1) {
    return limits->admit({.subject = std::move(subject),
                          .model = "m",
                          .prompt_tokens = prompt,
                          .max_tokens = most,
                          .room = 100'000,
                          .answers = answers});
  }
  Kind refused(std::int64_t prompt, std::int64_t most, Subject subject = {.user = "ann"}) {
    auto admission = admit(prompt, most, std::move(subject));
    EXPECT_FALSE(admission);
    return admission ? Kind::unavailable : admission.error().kind;
  }

  store::TestTime time;
  std::unique_ptr<store::Counters> counters = store::memory_counters(time.clock());
  std::mutex mutex;
  std::condition_variable told;
  std::vector<BudgetAlert> alerts;
  std::unique_ptr<Limits> limits;  // last: its thread tells the above
};

TEST_F(LimitsTest, TheFieldsProfileHolds) {
  use("profile: field");
  {
    const auto one = admit(100, 400);
    ASSERT_TRUE(one);
    EXPECT_EQ(one->numbers().tokens->remaining, 500);
    const auto two = admit(100, 401);
    ASSERT_FALSE(two);
    EXPECT_EQ(two.error().kind, Kind::rate);
    EXPECT_EQ(reason(two.error().kind), "rate_limit_exceeded");
    EXPECT_EQ(two.error().retry_after, milliseconds(60));
    EXPECT_EQ(two.error().error.code, Code::exhausted);
    EXPECT_NE(two.error().error.message.find("user 'ann'"), std::string::npos) << two.error().error.message;
    EXPECT_TRUE(admit(100, 401, {.user = "bob"})) << "each user has his own";
  }
  EXPECT_TRUE(admit(100, 900)) << "what ended unsettled is as if it had never been";
}

TEST_F(LimitsTest, ARequestLargerThanItsBucketRunsWhenTheBucketIsFull) {
  use("profile: field");
  auto large = admit(2000, 3000);
  ASSERT_TRUE(large);
  large->settle({.prompt = 2000, .completion = 10});
  const auto next = admit(1, 0);
  ASSERT_FALSE(next);
  EXPECT_EQ(next.error().retry_after, milliseconds((2010 - 999) * 60));
  EXPECT_EQ(refused(60'000, 0, {.user = "bob"}), Kind::too_large) << "more than a day's tokens fit no day";
}

TEST_F(LimitsTest, TenSeatsForEachModel) {
  use("profile: field");
  std::vector<Limits::Admission> running;
  for (int i = 0; i < 10; ++i) {
    auto admission = admit(1, 1, {.user = "u" + std::to_string(i)});
    ASSERT_TRUE(admission);
    running.push_back(std::move(*admission));
  }
  EXPECT_EQ(refused(1, 1), Kind::rate);
  running.pop_back();
  EXPECT_TRUE(admit(1, 1));
}

TEST_F(LimitsTest, AThousandRequestsAnHourForATeam) {
  use("limits: [{scope: team, name: rph, measure: requests, capacity: 1000, period: 1h}]");
  for (int i = 0; i < 1000; ++i) admit(1, 1, {.team = "prod"})->settle({.prompt = 1});
  const auto refusal = admit(1, 1, {.team = "prod"});
  ASSERT_FALSE(refusal);
  EXPECT_EQ(refusal.error().numbers.requests->remaining, 0);
  EXPECT_FALSE(refusal.error().numbers.tokens);
  EXPECT_TRUE(admit(1, 1, {.team = "test"}));
  EXPECT_TRUE(admit(1, 1)) << "no team, no team's limit";
  time.pass(std::chrono::hours(1) + std::chrono::seconds(15));
  EXPECT_TRUE(admit(1, 1, {.team = "prod"}));
}

TEST_F(LimitsTest, MoneyIsReservedAtItsMostAndSettledToTheTruth) {
  use(R"(
limits: [{scope: team, name: day, kind: budget, dollars: 1, window: day}]
prices: [{model: m, input: 1000, cached_input: 100, output: 2000}])");  // a tenth and a fifth of a cent a token
  const Subject team{.team = "t"};
  auto first = admit(100, 200, team);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->reserved(), 500'000'000);
  EXPECT_EQ(refused(100, 201, team), Kind::quota);
  first->settle({.prompt = 100, .cached = 50, .completion = 10});
  EXPECT_EQ(first->cost({.prompt = 100, .cached = 50, .completion = 10}), 50'000'000 + 5'000'000 + 20'000'000);
  const auto rest = admit(925, 0, team);
  EXPECT_TRUE(rest) << "exactly what is left";
  const auto refusal = admit(1, 0, team);
  ASSERT_FALSE(refusal);
  EXPECT_EQ(reason(refusal.error().kind), "insufficient_quota");
  EXPECT_NE(refusal.error().error.message.find("team 't'"), std::string::npos) << refusal.error().error.message;
}

TEST_F(LimitsTest, AnAnswerOfNoStatedLengthGetsWhatIsLeft) {
  use(R"(
limits:
  - {scope: team, name: day, kind: budget, dollars: 1, window: day}
  - {scope: user, name: tpd, capacity: 900, period: 24h}
prices: [{model: m, input: 1000, output: 1000}])");
  auto open = admit(100, -1, {.user = "ann", .team = "t"});
  ASSERT_TRUE(open) << open.error().error.message;
  EXPECT_EQ(open->max_tokens(), 800) << "of the day's tokens";
  open->settle({.prompt = 100, .completion = 100});
  auto two = admit(100, -1, {.user = "bob", .team = "t"}, 2);
  ASSERT_TRUE(two) << two.error().error.message;
  EXPECT_EQ(two->max_tokens(), 350) << "of the money, for each of two answers";
  EXPECT_TRUE(admit(100, -1, {.user = "dan"})) << "others have their own";
  EXPECT_EQ(refused(100, -1, {.user = "cid", .team = "t"}), Kind::quota) << "nothing worth an answer is left";
}

TEST_F(LimitsTest, TheOutputCapHoldsWhateverIsAsked) {
  use("output_caps: [{scope: user, who: ann, tokens: 300}]");
  EXPECT_EQ(admit(1, 4000)->max_tokens(), 300);
  EXPECT_EQ(admit(1, -1)->max_tokens(), 300);
  EXPECT_EQ(admit(1, 20)->max_tokens(), 20);
  EXPECT_EQ(admit(1, 4000, {.user = "bob"})->max_tokens(), 4000);
}

TEST_F(LimitsTest, ModelsWithoutAPriceAreFreeOrRefused) {
  const std::string budget = "limits: [{scope: team, name: day, kind: budget, dollars: 0, window: day}]\n";
  use(budget);
  EXPECT_TRUE(admit(100, 100, {.team = "t"}));
  use(budget + "refuse_unpriced: true");
  EXPECT_EQ(refused(100, 100, {.team = "t"}), Kind::quota);
  EXPECT_TRUE(admit(100, 100));
}

TEST_F(LimitsTest, AnotherConfigurationTakesPlaceWhileRequestsRun) {
  use("profile: field");
  auto running = admit(100, 100);
  ASSERT_TRUE(running);
  ASSERT_TRUE(limits->apply({}));
  EXPECT_TRUE(admit(50'000, 50'000));
  running->settle({.prompt = 100, .completion = 50});
  LimitsConfig wrong;
  wrong.rules.push_back({.name = "Not a name"});
  EXPECT_FALSE(limits->apply(std::move(wrong)));
  ASSERT_TRUE(limits->apply(*read_limits("profile: field")));
  EXPECT_EQ(limits->numbers({.user = "ann"}, "m")->tokens->remaining, 850);
}

TEST_F(LimitsTest, AlertsComeOnceAWindow) {
  use(R"(
limits: [{scope: team, name: day, kind: budget, dollars: 1, window: day, alerts: [50, 90]}]
prices: [{model: m, input: 1000, output: 1000}])");
  const auto spend = [&](std::int64_t tokens) { admit(tokens, 0, {.team = "t"})->settle({.prompt = tokens}); };
  const auto wait_for = [&](std::size_t count) {
    std::unique_lock lock(mutex);
    return told.wait_for(lock, std::chrono::seconds(10), [&] { return alerts.size() >= count; });
  };
  spend(499);
  spend(1);
  ASSERT_TRUE(wait_for(1));
  spend(100);
  spend(300);
  ASSERT_TRUE(wait_for(2));
  spend(100);
  time.pass(std::chrono::hours(24));
  spend(600);
  ASSERT_TRUE(wait_for(3));
  const std::lock_guard lock(mutex);
  ASSERT_EQ(alerts.size(), 3u);
  EXPECT_EQ(alerts[0].percent, 50);
  EXPECT_EQ(alerts[0].used, 500'000'000);
  EXPECT_EQ(alerts[0].who, "team 't'");
  EXPECT_EQ(alerts[1].percent, 90);
  EXPECT_EQ(alerts[2].percent, 50);
}

TEST_F(LimitsTest, NumbersAreWrittenAsClientsReadThem) {
  const RateNumbers numbers{.requests = store::Standing{1000, 999, milliseconds(360'000)},
                            .tokens = store::Standing{50'000, 0, milliseconds(3'723'000)}};
  const auto headers = rate_headers(numbers);
  ASSERT_EQ(headers.size(), 6u);
  EXPECT_EQ(headers[0], std::pair(std::string("x-ratelimit-limit-requests"), std::string("1000")));
  EXPECT_EQ(headers[1].second, "999");
  EXPECT_EQ(headers[2].second, "6m0s");
  EXPECT_EQ(headers[4], std::pair(std::string("x-ratelimit-remaining-tokens"), std::string("0")));
  EXPECT_EQ(headers[5].second, "1h2m3s");
  EXPECT_TRUE(rate_headers({}).empty());
}

TEST_F(LimitsTest, HostileSizesOverflowNothing) {
  use("profile: field");
  EXPECT_EQ(refused(INT64_MAX, 1), Kind::too_large);
  EXPECT_EQ(refused(1, INT64_MAX), Kind::too_large);
  EXPECT_EQ(refused(-1, 1), Kind::too_large);
  EXPECT_FALSE(admit(1'000'000'000, 1'000'000'000, {}, 10'000));
}

TEST_F(LimitsTest, NobodySpendsTooMuchAndAllOfItCanBeSpent) {
  use(R"(
limits: [{scope: team, name: all, kind: budget, dollars: 0.0001}]
prices: [{model: m, input: 1, output: 1}])");  // a microdollar a token: 100 tokens in all
  std::atomic<std::int64_t> spent = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      for (int i = 0; i < 500; ++i) {
        auto admission = limits->admit({.subject = {.team = "t"}, .model = "m", .prompt_tokens = 1, .max_tokens = 2});
        if (!admission || random() % 3 == 0) continue;  // dropped unsettled: released
        const std::int64_t answer = static_cast<std::int64_t>(random() % 3);
        admission->settle({.prompt = 1, .completion = answer});
        spent += 1 + answer;
      }
    });
  threads.clear();
  EXPECT_LE(spent, 100);
  EXPECT_GE(spent, 98);
  int more = 0;
  for (; auto admission = limits->admit({.subject = {.team = "t"}, .model = "m", .prompt_tokens = 1, .max_tokens = 0});
       ++more)
    admission->settle({.prompt = 1});
  EXPECT_EQ(spent + more, 100) << "to the last token";
}

}  // namespace
}  // namespace ashlar::gateway
