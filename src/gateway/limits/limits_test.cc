#include "gateway/limits/limits.h"

#include <fmt/format.h>
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

TEST_F(LimitsTest, WritesToACacheArePricedApartAndReservedAtTheirMost) {
  use(R"(
limits: [{scope: global, name: all, kind: budget, dollars: 1}]
prices: [{model: m, input: 1000, cached_input: 100, cache_write: 1250, output: 2000}])");
  auto admission = admit(100, 10);
  ASSERT_TRUE(admission) << admission.error().error.message;
  EXPECT_EQ(admission->reserved(), 125'000'000 + 20'000'000) << "all of the prompt may be written";
  EXPECT_EQ(admission->cost({.prompt = 100, .cached = 50, .written = 40, .completion = 10}),
            10'000'000 + 5'000'000 + 50'000'000 + 20'000'000);
  EXPECT_EQ(admission->cost({.prompt = 100, .cached = 50, .written = 90}), 5'000'000 + 62'500'000)
      << "no token is both";
}

TEST_F(LimitsTest, WritesToACacheCostAsAnyOtherOfThePromptWhereNothingElseIsSaid) {
  use("limits: [{scope: global, name: all, kind: budget, dollars: 1}]\n"
      "prices: [{model: m, input: 1000, output: 2000}]");
  auto admission = admit(100, 10);
  ASSERT_TRUE(admission);
  EXPECT_EQ(admission->cost({.prompt = 100, .written = 40}), 100'000'000);
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

constexpr const char* kPriced = "prices: [{model: m, input: 1, output: 1}]\n";  // a microdollar a token

TEST_F(LimitsTest, BucketsAndReservationsGoOnUnderAnotherCapacity) {
  use("limits: [{scope: user, name: tpm, kind: token_bucket, capacity: 600, period: 1m}]");
  auto running = admit(100, 400);
  ASSERT_TRUE(running);
  time.pass(std::chrono::seconds(6));  // 60 have come back
  ASSERT_TRUE(limits->apply(
      *read_limits("limits: [{scope: user, name: tpm, kind: token_bucket, capacity: 6000, period: 1m}]")));
  EXPECT_EQ(limits->numbers({.user = "ann"}, "m")->tokens->remaining, 5560);
  ASSERT_TRUE(
      limits->apply(*read_limits("limits: [{scope: user, name: tpm, kind: token_bucket, capacity: 300, period: 1m}]")));
  EXPECT_EQ(refused(1, 299), Kind::rate);
  time.pass(std::chrono::seconds(12));  // 60 more, by the new rule
  running->settle({.prompt = 100, .completion = 400});
  EXPECT_EQ(limits->numbers({.user = "ann"}, "m")->tokens->remaining, 0);
  time.pass(std::chrono::seconds(60));
  EXPECT_EQ(limits->numbers({.user = "ann"}, "m")->tokens->remaining, 220);
}

TEST_F(LimitsTest, ABudgetOfAnotherCapacityIsTheSame) {
  const auto with = [&](double dollars) {
    return fmt::format("limits: [{{scope: team, name: day, kind: budget, dollars: {}, window: day}}]\n{}", dollars,
                       kPriced);
  };
  use(with(0.001));
  admit(100, 0, {.team = "t"})->settle({.prompt = 100});
  auto running = admit(400, 100, {.team = "t"});
  ASSERT_TRUE(limits->apply(*read_limits(with(0.0007))));
  EXPECT_EQ(refused(101, 0, {.team = "t"}), Kind::quota);
  auto more = admit(100, 0, {.team = "t"});
  EXPECT_TRUE(more);
  ASSERT_TRUE(limits->apply(*read_limits(with(0.0001))));
  EXPECT_EQ(refused(1, 0, {.team = "t"}), Kind::quota);
  running->settle({.prompt = 400});
  more->release();
  ASSERT_TRUE(limits->apply(*read_limits(with(0.0006))));
  EXPECT_EQ(refused(101, 0, {.team = "t"}), Kind::quota);
  EXPECT_TRUE(admit(100, 0, {.team = "t"}));
}

TEST_F(LimitsTest, ANewBudgetCountsThoseWhoRun) {
  use(kPriced);
  auto runs = admit(100, 300, {.team = "t"});
  auto ends = admit(100, 300, {.team = "t"});
  auto dropped = admit(100, 300, {.team = "t"});
  auto others = admit(500, 500, {.team = "u"});
  const std::string text =
      std::string(kPriced) + "limits: [{scope: team, name: day, kind: budget, dollars: 0.001, window: day}]";
  const auto ledger = [&](const LimitsConfig& fresh, std::int64_t before_ms, const auto& running) {
    EXPECT_EQ(fresh.rules.size(), 1u);
    EXPECT_GT(before_ms, time.clock()().utc_ms);
    ends->settle({.prompt = 100, .completion = 50});  // its row may be there by now, and is not to be counted as well
    EXPECT_EQ(running().size(), 4u);
    return Result<std::vector<store::Spent>>(
        {{{.key = "team:t:day:2", .kind = store::LimitKind::budget, .capacity = 1, .calendar = store::Calendar::day},
          200'000}});
  };
  ASSERT_TRUE(limits->apply(*read_limits(text), ledger));
  // Spent: 200 by the ledger, 150; reserved: 400 and 400.
  EXPECT_EQ(refused(1, 0, {.team = "t"}), Kind::quota);
  runs->settle({.prompt = 100, .completion = 100});
  dropped->release();
  EXPECT_EQ(refused(451, 0, {.team = "t"}), Kind::quota);
  auto rest = admit(450, 0, {.team = "t"});
  EXPECT_TRUE(rest);
  EXPECT_EQ(refused(1, 0, {.team = "u"}), Kind::quota) << "another's is his own";
  ASSERT_TRUE(limits->apply(*read_limits(text), ledger)) << "it is not new any more: nobody asks the ledger";
  rest->release();
  EXPECT_TRUE(admit(450, 0, {.team = "t"}));
}

TEST_F(LimitsTest, WhoBeganBeforeTheWindowIsNotOfIt) {
  use(kPriced);
  auto runs = admit(100, 300, {.team = "t"});
  time.pass(std::chrono::hours(24));
  ASSERT_TRUE(limits->apply(*read_limits(
      std::string(kPriced) + "limits: [{scope: team, name: day, kind: budget, dollars: 0.0004, window: day}]")));
  EXPECT_TRUE(admit(400, 0, {.team = "t"}));
}

TEST_F(LimitsTest, NewSeatsAreTakenByThoseWhoRun) {
  use(kPriced);
  auto one = admit(1, 1), two = admit(1, 1);
  ASSERT_TRUE(limits->apply(*read_limits(
      "limits: [{scope: model, name: concurrency, measure: seats, kind: semaphore, capacity: 2, period: 30s}]")));
  EXPECT_EQ(refused(1, 1), Kind::rate);
  one->settle({.prompt = 1});
  auto three = admit(1, 1);
  EXPECT_TRUE(three);
  EXPECT_EQ(refused(1, 1), Kind::rate);
  two->release();
  EXPECT_TRUE(admit(1, 1));
}

TEST_F(LimitsTest, ALedgerThatFailsLeavesAllAsItWas) {
  use(kPriced);
  auto runs = admit(100, 300, {.team = "t"});
  const std::string text =
      std::string(kPriced) + "limits: [{scope: team, name: day, kind: budget, dollars: 0.0001, window: day}]";
  const auto fails = [](const auto&, auto, const auto&) -> Result<std::vector<store::Spent>> {
    return Error{Code::io, "no disk"};
  };
  EXPECT_EQ(limits->apply(*read_limits(text), fails).error().message, "no disk");
  EXPECT_TRUE(admit(1000, 0, {.team = "t"}));
}

// Budgets come and go while everybody asks: what is counted in the end is what was spent since each came, and what ran
// then.
TEST_F(LimitsTest, NobodySlipsThroughWhileABudgetComes) {
  const std::string text = std::string(kPriced) + "limits: [{scope: team, name: all, kind: budget, dollars: 0.0001}]";
  for (int turn = 0; turn < 20; ++turn) {
    counters = store::memory_counters(time.clock());
    use(kPriced);
    std::atomic<bool> stop = false;
    std::atomic<std::int64_t> running = 0, most = 0;
    std::atomic<bool> came = false;
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        while (!stop) {
          const bool after = came;
          auto admission =
              limits->admit({.subject = {.team = "t"}, .model = "m", .prompt_tokens = 10, .max_tokens = 20});
          if (!admission) continue;
          const std::int64_t now = running += 30;
          if (after && now > most) most = now;
          std::this_thread::yield();
          running -= 30;
          admission->release();
        }
      });
    std::vector<Limits::Admission> held;
    for (int i = 0; i < 2; ++i)
      held.push_back(*limits->admit({.subject = {.team = "t"}, .model = "m", .prompt_tokens = 10, .max_tokens = 20}));
    ASSERT_TRUE(limits->apply(*read_limits(text)));
    came = true;
    for (int i = 0; i < 50; ++i) std::this_thread::yield();
    stop = true;
    threads.clear();
    EXPECT_LE(most, 30) << "two of thirty are held of a hundred";
    held.clear();
    EXPECT_TRUE(admit(100, 0, {.team = "t"})) << "and all of it is there again";
  }
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

TEST_F(LimitsTest, ASoftBudgetTellsAndRefusesNobody) {
  use(R"({prices: [{model: m, input: 1000, output: 1000}], refuse_unpriced: true, limits: [
      {scope: user, name: soft, kind: budget, dollars: 0.010, window: day, soft: true, alerts: [50, 200]}]})");
  for (int i = 0; i < 3; ++i) {
    auto one = admit(5, 5);
    ASSERT_TRUE(one) << i;
    one->settle({.prompt = 5, .completion = 5});
  }
  std::unique_lock lock(mutex);
  ASSERT_TRUE(told.wait_for(lock, std::chrono::seconds(20), [&] { return alerts.size() == 2; }));
  for (const BudgetAlert& alert : alerts) {
    EXPECT_TRUE(alert.soft);
    EXPECT_EQ(alert.capacity, 10'000'000);
  }
  EXPECT_TRUE(limits->admit({.subject = {.user = "ann"}, .model = "unpriced", .prompt_tokens = 1, .max_tokens = 1}));
  EXPECT_FALSE(read_limits("limits: [{scope: user, name: a, capacity: 1, period: 1m, soft: true}]"));
}

TEST_F(LimitsTest, ThePriceOfTheNameThatWasAskedForCountsWhereTheModelHasNone) {
  use(R"({prices: [{model: alias, input: 1000}, {model: m, input: 2000}], limits: [
      {scope: user, name: day, kind: budget, dollars: 1, window: day}]})");
  const auto reserved = [&](const std::string& model, const std::string& asked_as) {
    const auto one = limits->admit(
        {.subject = {.user = "ann"}, .model = model, .asked_as = asked_as, .prompt_tokens = 1, .max_tokens = 0});
    return one ? one->reserved() : -1;
  };
  EXPECT_EQ(reserved("m", "alias"), 2'000'000);
  EXPECT_EQ(reserved("other", "alias"), 1'000'000);
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
