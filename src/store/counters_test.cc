// One suite for both twins of the counters.
#include "store/counters.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "store/counters_for_test.h"
#include "store/memory_counters.h"
#include "store/redis/test_server.h"

namespace ashlar::store {

// A twin: makes counters that nobody has used yet.
struct Twin {
  const char* name;
  std::unique_ptr<Counters> (*make)(CounterClock clock);
};
void PrintTo(const Twin& twin, std::ostream* out) { *out << twin.name; }

namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

class CountersTest : public testing::TestWithParam<Twin> {
 protected:
  Verdict reserve(const std::string& id, const std::vector<Charge>& charges) {
    auto verdict = counters->reserve(id, charges);
    EXPECT_TRUE(verdict) << verdict.error().message;
    if (!verdict) return {};
    EXPECT_EQ(verdict->standings.size(), charges.size());
    return *verdict;
  }
  void settle(const std::string& id, const std::vector<std::int64_t>& amounts) {
    counters->settle(id, amounts);
    EXPECT_TRUE(counters->sync(seconds(5)));
  }
  void release(const std::string& id) {
    counters->release(id);
    EXPECT_TRUE(counters->sync(seconds(5)));
  }
  Standing look(const Limit& limit) {
    auto standings = counters->look({&limit, 1});
    EXPECT_TRUE(standings) << standings.error().message;
    return standings ? standings->at(0) : Standing{};
  }

  TestTime time;
  std::unique_ptr<Counters> counters = GetParam().make(time.clock());
};

std::unique_ptr<Counters> on_redis(CounterClock clock) {
  static int uses = 0;
  auto counters =
      redis_counters(shared_redis().options(),
                     {.prefix = "{test" + std::to_string(++uses) + "}:", .ledger = {}, .clock = std::move(clock)});
  EXPECT_TRUE(counters);
  return std::move(*counters);
}
INSTANTIATE_TEST_SUITE_P(Redis, CountersTest, testing::Values(Twin{"redis", &on_redis}),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Memory, CountersTest, testing::Values(Twin{"memory", &memory_counters}),
                         [](const auto& info) { return info.param.name; });

TEST_P(CountersTest, TakesAllOrNothing) {
  const Limit wide = limit_of(LimitKind::sliding_window, "wide", 100), narrow = money("narrow", 5);
  const Verdict refused = reserve("a", {{wide, 10}, {narrow, 6}});
  EXPECT_FALSE(refused.admitted);
  EXPECT_EQ(refused.refused_by, 1);
  EXPECT_TRUE(refused.never);
  EXPECT_EQ(refused.standings[0], (Standing{100, 100, milliseconds(0)}));
  EXPECT_EQ(refused.standings[1], (Standing{5, 5, milliseconds(0)}));
  const Verdict admitted = reserve("b", {{wide, 10}, {narrow, 5}});
  EXPECT_TRUE(admitted.admitted);
  EXPECT_EQ(admitted.standings[0].remaining, 90);
  EXPECT_EQ(admitted.standings[1].remaining, 0);
}

TEST_P(CountersTest, SettlesToTheTruthOnce) {
  const Limit budget = money("budget", 1000), window = limit_of(LimitKind::sliding_window, "window", 1000);
  ASSERT_TRUE(reserve("a", {{budget, 800}, {window, 800}}).admitted);
  EXPECT_EQ(look(budget).remaining, 200);
  settle("a", {300, 100});
  settle("a", {300, 100});
  release("a");
  EXPECT_EQ(look(budget).remaining, 700);
  EXPECT_EQ(look(window).remaining, 900);
  ASSERT_TRUE(reserve("b", {{budget, 700}, {window, 900}}).admitted);
  settle("b", {900, 950});  // more than was reserved: the truth counts
  EXPECT_EQ(look(budget).remaining, 0);
  EXPECT_EQ(look(window).remaining, 0);
  EXPECT_FALSE(reserve("c", {{budget, 1}}).admitted);
}

TEST_P(CountersTest, ReleaseIsAsIfItHadNeverBeen) {
  const std::vector<Charge> charges = {{money("budget", 100), 60},
                                       {limit_of(LimitKind::sliding_window, "window", 100), 60},
                                       {limit_of(LimitKind::token_bucket, "bucket", 100), 60},
                                       {limit_of(LimitKind::leaky_bucket, "leaky", 100), 60},
                                       {limit_of(LimitKind::semaphore, "seats", 1), 1}};
  for (int turn = 0; turn < 3; ++turn) {
    const std::string id = "r" + std::to_string(turn);
    ASSERT_TRUE(reserve(id, charges).admitted) << turn;
    EXPECT_FALSE(reserve("other", charges).admitted);
    release(id);
  }
  for (const Charge& charge : charges)
    EXPECT_EQ(look(charge.limit), (Standing{charge.limit.capacity, charge.limit.capacity, milliseconds(0)}));
}

TEST_P(CountersTest, TheSameIdIsNotCountedTwice) {
  const std::vector<Charge> charges = {{money("budget", 100), 60}};
  ASSERT_TRUE(reserve("a", charges).admitted);
  const Verdict again = reserve("a", charges);
  EXPECT_TRUE(again.admitted);
  EXPECT_EQ(again.standings[0].remaining, 40);
}

TEST_P(CountersTest, ATokenBucketFillsEvenly) {
  const Limit tpm = limit_of(LimitKind::token_bucket, "tpm", 1000);
  ASSERT_TRUE(reserve("a", {{tpm, 1000}}).admitted);
  const Verdict refused = reserve("b", {{tpm, 1}});
  EXPECT_FALSE(refused.admitted);
  EXPECT_EQ(refused.retry_after, milliseconds(60));
  time.pass(milliseconds(59));
  EXPECT_FALSE(reserve("b", {{tpm, 1}}).admitted);
  time.pass(milliseconds(1));
  EXPECT_TRUE(reserve("b", {{tpm, 1}}).admitted);
  time.pass(minutes(60));
  EXPECT_EQ(look(tpm), (Standing{1000, 1000, milliseconds(0)}));
  EXPECT_TRUE(reserve("c", {{tpm, 500}}).admitted);
  EXPECT_EQ(look(tpm), (Standing{1000, 500, seconds(30)}));
}

TEST_P(CountersTest, ARequestLargerThanItsBucketEntersAFullOneAndLeavesADebt) {
  const Limit tpm = limit_of(LimitKind::token_bucket, "tpm", 1000);
  ASSERT_TRUE(reserve("a", {{tpm, 1}}).admitted);
  const Verdict early = reserve("large", {{tpm, 2500}});
  EXPECT_FALSE(early.admitted);
  EXPECT_FALSE(early.never);
  EXPECT_EQ(early.retry_after, milliseconds(60));
  time.pass(milliseconds(60));
  ASSERT_TRUE(reserve("large", {{tpm, 2500}}).admitted);
  EXPECT_EQ(look(tpm), (Standing{1000, 0, seconds(150)}));
  EXPECT_EQ(reserve("b", {{tpm, 1}}).retry_after, milliseconds(90'060));
  settle("large", {1100});  // most of it is given back
  EXPECT_EQ(reserve("b", {{tpm, 1}}).retry_after, milliseconds(6'060));
  time.pass(milliseconds(6'060));
  EXPECT_TRUE(reserve("b", {{tpm, 1}}).admitted);
}

TEST_P(CountersTest, ALeakyBucketTakesAsMuchAsHasLeaked) {
  const Limit tps = limit_of(LimitKind::leaky_bucket, "tps", 10'000, seconds(1));
  ASSERT_TRUE(reserve("a", {{tps, 10'000}}).admitted);
  EXPECT_EQ(reserve("b", {{tps, 10}}).retry_after, milliseconds(1));
  time.pass(milliseconds(1));
  EXPECT_TRUE(reserve("b", {{tps, 10}}).admitted);
  EXPECT_FALSE(reserve("c", {{tps, 1}}).admitted);
}

TEST_P(CountersTest, ASlidingWindowNeverAdmitsOver) {
  const Limit tpd = limit_of(LimitKind::sliding_window, "tpd", 50'000, hours(24));
  time.pass(minutes(3));
  ASSERT_TRUE(reserve("a", {{tpd, 30'000}}).admitted);
  time.pass(hours(12));
  ASSERT_TRUE(reserve("b", {{tpd, 20'000}}).admitted);
  const Verdict refused = reserve("c", {{tpd, 30'000}});
  ASSERT_FALSE(refused.admitted);
  EXPECT_GE(refused.retry_after, hours(12));
  EXPECT_LE(refused.retry_after, hours(12) + minutes(6));
  time.pass(hours(12) - milliseconds(1));
  EXPECT_FALSE(reserve("c", {{tpd, 1}}).admitted) << "a day is not over";
  time.pass(minutes(6) + milliseconds(1));
  EXPECT_TRUE(reserve("c", {{tpd, 30'000}}).admitted);
  EXPECT_FALSE(reserve("d", {{tpd, 1}}).admitted);
  EXPECT_TRUE(reserve("d", {{tpd, 50'001}}).never);
}

TEST_P(CountersTest, TheWaitThatIsToldIsEnoughAndNeeded) {
  std::mt19937 random(7);
  for (const LimitKind kind : {LimitKind::token_bucket, LimitKind::leaky_bucket, LimitKind::sliding_window}) {
    const Limit limit = limit_of(kind, "wait", 997, seconds(24));
    int waits = 0;
    for (int i = 0; i < 100; ++i) {
      const std::string id = std::to_string(static_cast<int>(kind)) + "-" + std::to_string(i);
      const std::vector<Charge> charges = {{limit, static_cast<std::int64_t>(random() % 997)}};
      const Verdict verdict = reserve(id, charges);
      if (!verdict.admitted) {
        ++waits;
        ASSERT_GE(verdict.retry_after, milliseconds(1));
        time.pass(verdict.retry_after - milliseconds(1));
        EXPECT_FALSE(reserve(id, charges).admitted);
        time.pass(milliseconds(1));
        EXPECT_TRUE(reserve(id, charges).admitted);
      }
      time.pass(milliseconds(random() % 3000));
    }
    EXPECT_GT(waits, 20);
  }
}

TEST_P(CountersTest, SeatsComeBackWhenTheyAreLeftOrTheirHolderDies) {
  const Limit seats = limit_of(LimitKind::semaphore, "seats", 2, seconds(30));
  ASSERT_TRUE(reserve("a", {{seats, 1}}).admitted);
  time.pass(seconds(10));
  ASSERT_TRUE(reserve("b", {{seats, 1}}).admitted);
  const Verdict refused = reserve("c", {{seats, 1}});
  EXPECT_FALSE(refused.admitted);
  EXPECT_EQ(refused.retry_after, seconds(1));
  release("a");
  EXPECT_TRUE(reserve("c", {{seats, 1}}).admitted);
  time.pass(seconds(20));
  counters->renew("c");  // b dies
  EXPECT_TRUE(counters->sync(seconds(5)));
  time.pass(seconds(10));
  EXPECT_EQ(look(seats), (Standing{2, 1, seconds(20)}));
  EXPECT_TRUE(reserve("d", {{seats, 1}}).admitted);
  counters->renew("b");  // and was only slow: its work runs
  EXPECT_TRUE(counters->sync(seconds(5)));
  release("c");
  EXPECT_FALSE(reserve("e", {{seats, 1}}).admitted);
  settle("b", {1});
  EXPECT_TRUE(reserve("e", {{seats, 1}}).admitted);
}

TEST_P(CountersTest, BudgetsFollowTheCalendarOfUtc) {
  const Limit hour = money("hour", 100, Calendar::hour), day = money("day", 150, Calendar::day),
              month = money("month", 160, Calendar::month), total = money("total", 1000);
  const auto all = [&](std::int64_t amount) {
    return std::vector<Charge>{{hour, amount}, {day, amount}, {month, amount}, {total, amount}};
  };
  ASSERT_TRUE(reserve("a", all(100)).admitted);
  const Verdict refused = reserve("b", all(1));  // one second before noon
  EXPECT_EQ(refused.refused_by, 0);
  EXPECT_EQ(refused.retry_after, seconds(1));
  time.pass(seconds(1));
  EXPECT_TRUE(reserve("b", all(50)).admitted);
  const Verdict full = reserve("c", all(10));
  EXPECT_EQ(full.refused_by, 1);
  EXPECT_EQ(full.retry_after, hours(12));
  settle("a", {0, 0, 0, 0});  // gives its own hour back, not this one
  EXPECT_EQ(look(hour).remaining, 50);
  EXPECT_EQ(look(day).remaining, 100);
  EXPECT_EQ(look(month), (Standing{160, 110, hours(12 + 24 * 30)}));
  EXPECT_EQ(look(total), (Standing{1000, 950, milliseconds(0)}));
}

TEST_P(CountersTest, ATotalBudgetThatIsSpentIsNotWaitedFor) {
  const Limit total = money("total", 100);
  ASSERT_TRUE(reserve("a", {{total, 100}}).admitted);
  EXPECT_TRUE(reserve("b", {{total, 1}}).never);
  EXPECT_TRUE(reserve("b", {{total, 0}}).admitted) << "what is free goes on";
}

TEST_P(CountersTest, CountsAreExactToTheirLargest) {
  const Limit total = money("total", kMostAmount);
  ASSERT_TRUE(reserve("a", {{total, kMostAmount - 2}}).admitted);
  EXPECT_FALSE(reserve("b", {{total, 3}}).admitted);
  ASSERT_TRUE(reserve("b", {{total, 1}}).admitted);
  EXPECT_EQ(look(total).remaining, 1);
  settle("a", {kMostAmount - 3});
  EXPECT_EQ(look(total).remaining, 2);
}

TEST_P(CountersTest, AClockThatJumpsNeitherGivesNorTakes) {
  const Limit day = money("day", 100, Calendar::day), tpm = limit_of(LimitKind::token_bucket, "tpm", 100);
  ASSERT_TRUE(reserve("a", {{day, 100}, {tpm, 100}}).admitted);
  time.utc_ms += milliseconds(hours(48)).count();  // somebody sets the date
  EXPECT_EQ(look(day).remaining, 100);
  EXPECT_EQ(look(tpm).remaining, 0) << "rates do not look at the calendar";
  ASSERT_TRUE(reserve("b", {{day, 40}}).admitted);
  time.utc_ms -= milliseconds(hours(48)).count();  // and sets it back
  EXPECT_EQ(look(day).remaining, 0) << "what was spent today is still spent";
  time.steady_ms -= milliseconds(hours(1)).count();
  EXPECT_EQ(look(tpm).remaining, 0);
  EXPECT_FALSE(reserve("c", {{tpm, 1}}).admitted);
}

TEST_P(CountersTest, BudgetsAreRestoredFromALedger) {
  const Limit day = money("day", 100, Calendar::day);
  const Spent spent[] = {{day, 70}};
  ASSERT_TRUE(counters->restore(spent));
  EXPECT_EQ(look(day).remaining, 30);
  ASSERT_TRUE(reserve("a", {{day, 20}}).admitted);
  ASSERT_TRUE(counters->restore(spent));  // it knows less than we do
  EXPECT_EQ(look(day).remaining, 10);
}

TEST_P(CountersTest, MoneyOfADeadHolderWaitsToBeSettled) {
  const Limit day = money("day", 100, Calendar::day);
  ASSERT_TRUE(reserve("dead", {{day, 60}}).admitted);
  ASSERT_TRUE(reserve("rate", {{limit_of(LimitKind::sliding_window, "w", 9), 1}}).admitted);
  time.pass(hours(2));
  ASSERT_TRUE(reserve("young", {{day, 10}}).admitted);
  EXPECT_EQ(counters->unsettled(hours(1)).value_or(std::vector<std::string>{"?"}), std::vector<std::string>{"dead"});
  EXPECT_EQ(look(day).remaining, 30);
  settle("dead", {5});
  EXPECT_EQ(look(day).remaining, 85);
  EXPECT_EQ(counters->unsettled(hours(1)).value_or(std::vector<std::string>{"?"}), std::vector<std::string>{});
}

TEST_P(CountersTest, RefusesNumbersAndNamesOutOfBounds) {
  const auto code = [&](const std::string& id, std::vector<Charge> charges) {
    auto verdict = counters->reserve(id, charges);
    return verdict ? Code::internal : verdict.error().code;
  };
  const Limit fine = money("fine", 1);
  EXPECT_EQ(code("", {{fine, 1}}), Code::invalid);
  EXPECT_EQ(code("a b", {{fine, 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{money("line\nbreak", 1), 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{money(std::string(201, 'x'), 1), 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{fine, -1}}), Code::invalid);
  EXPECT_EQ(code("a", {{fine, kMostAmount + 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{money("big", kMostAmount + 1), 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{fine, 1}, {fine, 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{limit_of(LimitKind::semaphore, "s", 5), 2}}), Code::invalid);
  EXPECT_EQ(code("a", {{limit_of(LimitKind::sliding_window, "w", 5, milliseconds(0)), 1}}), Code::invalid);
  EXPECT_EQ(code("a", {{limit_of(LimitKind::token_bucket, "b", kMostAmount, hours(1)), 1}}), Code::invalid);
  EXPECT_EQ(code("a", std::vector<Charge>(33, Charge{fine, 1})), Code::invalid);
  EXPECT_EQ(look(fine).remaining, 1);
}

// Random orders of everything, against the model that adds up every time.
TEST_P(CountersTest, AgreesWithTheSlowModel) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    std::mt19937 random(seed);
    const std::string s = std::to_string(seed);
    const std::vector<Limit> limits = {limit_of(LimitKind::token_bucket, "tb" + s, 100, milliseconds(700)),
                                       limit_of(LimitKind::leaky_bucket, "lb" + s, 77, milliseconds(333)),
                                       limit_of(LimitKind::sliding_window, "sw" + s, 120, milliseconds(2400)),
                                       limit_of(LimitKind::semaphore, "se" + s, 3, milliseconds(900)),
                                       money("bh" + s, 3000, Calendar::hour),
                                       money("bm" + s, 20'000, Calendar::month),
                                       limit_of(LimitKind::sliding_window, "no" + s, 0)};
    SlowModel model(time);
    std::vector<std::pair<std::string, std::vector<Charge>>> held;
    int admitted = 0, refused = 0;
    for (int step = 0; step < 1500; ++step) {
      time.pass(milliseconds(random() % 4 == 0 ? random() % 400 : random() % 3));
      if (random() % 300 == 0) time.utc_ms += milliseconds(minutes(random() % 90)).count();
      const std::string id = s + "." + std::to_string(step);
      const unsigned what = random() % 8;
      if (what < 4) {
        std::vector<Charge> charges;
        for (const Limit& limit : limits)
          if (random() % 3 != 0 && (limit.capacity > 0 || random() % 40 == 0))
            charges.push_back({limit, limit.kind == LimitKind::semaphore
                                          ? 1
                                          : static_cast<std::int64_t>(random() % (random() % 9 ? 30 : 250))});
        const Verdict verdict = reserve(id, charges);
        ASSERT_EQ(verdict.admitted, model.reserve(id, charges)) << "seed " << seed << " step " << step;
        for (std::size_t i = 0; i < charges.size(); ++i)
          ASSERT_EQ(verdict.standings[i].remaining, model.remaining(charges[i].limit))
              << charges[i].limit.key << " " << step;
        if (verdict.admitted) held.emplace_back(id, charges);
        (verdict.admitted ? admitted : refused) += 1;
      } else if (!held.empty()) {
        const std::size_t which = random() % held.size();
        const auto [mine, charges] = held[which];
        if (what == 4) {
          counters->renew(mine);
          model.renew(mine);
          continue;
        }
        std::vector<std::int64_t> amounts;
        for (const Charge& charge : charges)
          amounts.push_back(what == 5           ? 0
                            : random() % 5 == 0 ? charge.amount + static_cast<std::int64_t>(random() % 9)
                                                : charge.amount / 2);
        if (what == 5)
          counters->release(mine);
        else
          counters->settle(mine, amounts);
        model.settle(mine, amounts);
        if (random() % 4 != 0) held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));  // or end it twice
      }
    }
    EXPECT_GT(admitted, 100);
    EXPECT_GT(refused, 100);
  }
}

TEST_P(CountersTest, AThousandAtOnceGetExactlyWhatFits) {
  const Limit budget = money("race", 100), seats = limit_of(LimitKind::semaphore, "seats", 1000);
  std::atomic<int> admitted = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 10; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 100; ++i) {
          const std::string id = std::to_string(t) + "-" + std::to_string(i);
          const Charge charges[] = {{seats, 1}, {budget, 1}};
          const auto verdict = counters->reserve(id, charges);
          if (verdict && verdict->admitted) ++admitted;
        }
      });
  }
  EXPECT_EQ(admitted, 100);
  EXPECT_EQ(look(budget).remaining, 0);
  EXPECT_EQ(look(seats).remaining, 900);
}

TEST_P(CountersTest, NothingIsLostBetweenThreads) {
  const Limit budget = money("budget", 1'000'000), window = limit_of(LimitKind::sliding_window, "window", 1'000'000),
              seats = limit_of(LimitKind::semaphore, "seats", 5);
  std::atomic<std::int64_t> spent = 0;
  std::atomic<int> inside = 0, most = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t)
      threads.emplace_back([&, t] {
        std::mt19937 random(static_cast<unsigned>(t));
        for (int i = 0; i < 100; ++i) {
          const std::string id = std::to_string(t) + "-" + std::to_string(i);
          std::vector<Charge> charges = {{budget, 100}, {window, 50}, {seats, 1}};
          std::shuffle(charges.begin(), charges.end(), random);
          const auto verdict = counters->reserve(id, charges);
          if (!verdict || !verdict->admitted) continue;
          const int now = ++inside;
          for (int old = most; old < now && !most.compare_exchange_weak(old, now);) continue;
          std::this_thread::yield();
          --inside;
          const std::int64_t amount = static_cast<std::int64_t>(random() % 100);
          std::vector<std::int64_t> amounts;
          for (const Charge& charge : charges)
            amounts.push_back(charge.limit.kind == LimitKind::semaphore ? 1 : amount);
          counters->settle(id, amounts);
          spent += amount;
        }
      });
  }
  ASSERT_TRUE(counters->sync(seconds(5)));
  EXPECT_LE(most, 5);
  EXPECT_GT(spent, 0);
  EXPECT_EQ(look(budget).remaining, 1'000'000 - spent);
  EXPECT_EQ(look(window).remaining, 1'000'000 - spent);
  EXPECT_EQ(look(seats).remaining, 5);
}

TEST(MemoryCounters, ForgetsLimitsThatAreAsIfUntouched) {
  TestTime time;
  MemoryCounters counters(time.clock());
  for (int i = 0; i < 300'000; ++i) {
    const std::string name = "user" + std::to_string(i);
    const Charge charges[] = {{limit_of(LimitKind::token_bucket, name, 10, seconds(1)), 5}};
    ASSERT_TRUE(counters.reserve(name, charges)->admitted);
    counters.settle(name, std::vector<std::int64_t>{5});
    time.pass(milliseconds(1));
  }
  EXPECT_LE(counters.size(), 64u * 1024u);
}

// What a process counted, another that is told of it counts as well.
TEST(MemoryCounters, GoesOnWhereAnotherStopped) {
  const Limit bucket{.key = "b", .kind = LimitKind::token_bucket, .capacity = 600, .period = minutes(1)};
  const Limit window{.key = "w", .capacity = 1000, .period = hours(24)};
  TestTime time;
  const auto one = memory_counters(time.clock()), two = memory_counters(time.clock());
  std::vector<Past> past{{bucket, {}}, {window, {}}};
  for (const std::int64_t amount : {300, 200, 90}) {
    for (Past& each : past) {
      const Charge charge[] = {{each.limit, amount}};
      ASSERT_TRUE(one->reserve(each.limit.key + std::to_string(amount), charge)->admitted);
      each.uses.push_back({.ago = seconds(30 - 10 * static_cast<int>(each.uses.size())), .amount = amount});
    }
    time.pass(seconds(10));
  }
  ASSERT_TRUE(two->replay(past));
  const Limit limits[] = {bucket, window};
  EXPECT_EQ(one->look({limits, 1})->front(), two->look({limits, 1})->front());
  EXPECT_EQ(two->look({limits + 1, 1})->front().remaining, 1000 - 590);
  time.pass(hours(24) + minutes(7));
  EXPECT_EQ(two->look({limits + 1, 1})->front().remaining, 1000);
  const Past money[] = {{{.key = "m", .kind = LimitKind::budget, .capacity = 1}, {}}};
  EXPECT_EQ(two->replay(money).error().code, Code::invalid);
}

}  // namespace
}  // namespace ashlar::store
