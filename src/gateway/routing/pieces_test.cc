// The parts that decide by themselves: ring, paces, ejection, sessions, blocks, waiting room.
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "gateway/routing/concurrency.h"
#include "gateway/routing/outliers.h"
#include "gateway/routing/pace.h"
#include "gateway/routing/prefix_index.h"
#include "gateway/routing/ring.h"
#include "gateway/routing/sessions.h"
#include "gateway/routing/waiting_room.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using TimePoint = std::chrono::steady_clock::time_point;
const TimePoint kStart{1'000'000s};

std::vector<std::string> names(int count) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) out.push_back("replica-" + std::to_string(i));
  return out;
}
bool always(int) { return true; }

TEST(Ring, HashesTheSameInEveryProcess) {
  EXPECT_EQ(stable_hash(""), stable_hash(""));
  EXPECT_EQ(stable_hash("a"), 0x02c0bdbf481420f8U);
  EXPECT_NE(stable_hash("a"), stable_hash("b"));
  EXPECT_NE(stable_hash("a", 1), stable_hash("a", 2));
}

TEST(Ring, AMemberThatLeavesMovesOnlyItsOwnKeys) {
  for (const int count : {2, 3, 8, 20}) {
    const auto all = names(count);
    auto fewer = all;
    fewer.erase(fewer.begin() + count / 2);
    const Ring before(all), after(fewer);
    int moved = 0;
    constexpr int kKeys = 20'000;
    for (int key = 0; key < kKeys; ++key) {
      const auto hash = stable_hash("key" + std::to_string(key));
      const auto was = all[static_cast<std::size_t>(before.find(hash, always))];
      const auto is = fewer[static_cast<std::size_t>(after.find(hash, always))];
      if (was != is) {
        EXPECT_EQ(was, all[static_cast<std::size_t>(count / 2)]);
        ++moved;
      }
    }
    EXPECT_NEAR(moved, kKeys / count, kKeys / count * 0.25) << count;
  }
}

TEST(Ring, SpreadsKeysEvenly) {
  const auto all = names(8);
  const Ring ring(all);
  std::map<int, int> keys;
  for (int key = 0; key < 80'000; ++key) ++keys[ring.find(stable_hash(std::to_string(key)), always)];
  for (const auto& [member, count] : keys) EXPECT_NEAR(count, 10'000, 2'500);
}

TEST(Ring, AsksEachMemberOnceAndGoesOnFromTheFirst) {
  const Ring ring(names(5));
  std::vector<int> asked;
  EXPECT_EQ(ring.find(123, [&](int member) { return asked.push_back(member), false; }), -1);
  EXPECT_EQ(std::set<int>(asked.begin(), asked.end()).size(), 5U);
  EXPECT_EQ(asked.size(), 5U);
  EXPECT_EQ(ring.find(123, [&](int member) { return member == asked[3]; }), asked[3]);
  EXPECT_EQ(Ring().find(1, always), -1);
}

// With requests of size 1 and equal members the rule is the paper's: nobody ever has more than ceil(1.25 m / n).
TEST(Ring, NobodyEverHasMoreThanItsBound) {
  std::mt19937 random{11};
  const Ring ring(names(8));
  std::vector<int> load(8);
  std::deque<int> under_way;
  for (int i = 0; i < 50'000; ++i) {
    const int total = static_cast<int>(under_way.size());
    const auto key = stable_hash(random() % 4 == 0 ? std::to_string(random() % 10'000) : "everybody asks this");
    const int member =
        ring.find(key, [&](int m) { return within_bound(load[static_cast<std::size_t>(m)], total, 1, 1.0 / 8, 1.25); });
    ASSERT_GE(member, 0) << "somebody may always take it";
    under_way.push_back(member);
    ++load[static_cast<std::size_t>(member)];
    ASSERT_LE(load[static_cast<std::size_t>(member)], std::ceil(1.25 * (total + 1) / 8));
    while (under_way.size() > random() % 200) {
      --load[static_cast<std::size_t>(under_way.front())];
      under_way.pop_front();
    }
  }
}

TEST(Ring, SomebodyMayAlwaysTakeARequestOfAnySize) {
  std::mt19937 random{5};
  for (int i = 0; i < 10'000; ++i) {
    const int count = 1 + static_cast<int>(random() % 9);
    std::vector<double> load, weight;
    double total = 0, weights = 0;
    for (int m = 0; m < count; ++m) {
      load.push_back(random() % 3 == 0 ? 0 : random() % 10'000);
      weight.push_back(1 + random() % 5);
      total += load.back();
      weights += weight.back();
    }
    const double size = 1 + random() % 100'000;
    bool any = false;
    for (std::size_t m = 0; m < load.size(); ++m) any |= within_bound(load[m], total, size, weight[m] / weights, 1.25);
    EXPECT_TRUE(any);
  }
}

TEST(PeakEwma, TakesPeaksAtOnceAndForgetsByHalves) {
  PeakEwma ewma(10s);
  EXPECT_FALSE(ewma.value(kStart));
  ewma.sample(1, kStart);
  ewma.sample(5, kStart + 1s);
  EXPECT_DOUBLE_EQ(*ewma.value(kStart + 1s), 5);
  EXPECT_NEAR(*ewma.value(kStart + 11s), 2.5, 1e-9);
  ewma.sample(0.1, kStart + 11s);
  EXPECT_NEAR(*ewma.value(kStart + 11s), 2.5 + 0.05, 1e-9) << "half of what was, half of the new";
  EXPECT_NEAR(*ewma.value(kStart), 2.55, 1e-9) << "a clock that goes back changes nothing";
}

// Tokens a second by how many requests run there at once.
using Curve = std::function<double(int)>;

// A deployment that is asked for more than it can do, for so long. What its limit was at the end.
int limit_after(ConcurrencyLimit& limit, const Curve& rate, TimePoint& now, std::chrono::seconds time,
                double slow = 0) {
  static double tokens = 0;
  for (const TimePoint end = now + time; now < end; now += 250ms) {
    tokens += rate(limit.limit()) / 4;
    limit.turn(now, {.tokens = static_cast<std::int64_t>(tokens)}, limit.limit(), /*pressed=*/true, slow);
  }
  return limit.limit();
}

TEST(ConcurrencyLimit, FindsAsManyAsThereAreSeats) {
  // So many answer side by side, as fast as alone or somewhat slower; the rest waits there.
  for (const int seats : {3, 8, 32, 50, 256})
    for (const double crowded : {0.0, 1.0}) {
      ConcurrencyLimit limit({});
      TimePoint now = kStart;
      const Curve rate = [&](int running) {
        const double n = std::min(running, seats);
        return 50 * n / (1 + crowded * n / seats);
      };
      const int found = limit_after(limit, rate, now, 600s);
      EXPECT_GE(rate(found), 0.93 * rate(seats)) << seats << " seats, limit " << found;
      EXPECT_LE(found, seats * 1.12 + 1) << seats;
    }
}

TEST(ConcurrencyLimit, StopsBeforeItThrashesAndFollowsWhatChanges) {
  ConcurrencyLimit limit({});
  TimePoint now = kStart;
  int best = 100;
  const Curve thrashes = [&](int running) { return running <= best ? 10.0 * running : 10.0 * best * best / running; };
  EXPECT_NEAR(limit_after(limit, thrashes, now, 600s), 100, 12);
  best = 25;  // three of four of its processors are gone
  EXPECT_NEAR(limit_after(limit, thrashes, now, 900s), 25, 5);
  best = 60;
  EXPECT_NEAR(limit_after(limit, thrashes, now, 1800s), 60, 9);
}

TEST(ConcurrencyLimit, RestsMostOfTheTime) {
  ConcurrencyLimit limit({});
  TimePoint now = kStart;
  const Curve rate = [](int running) { return 10.0 * std::min(running, 32); };
  (void)limit_after(limit, rate, now, 300s);
  int measures = 0;
  for (int i = 0; i < 1000; ++i) {
    (void)limit_after(limit, rate, now, 1s);
    measures += limit.measures() ? 1 : 0;
  }
  EXPECT_LT(measures, 60);
}

TEST(ConcurrencyLimit, LeavesUrgentRequestsInPeaceOnceItIsFound) {
  for (const int seats : {20, 32, 40, 70}) {
    ConcurrencyLimit limit({});
    TimePoint now = kStart;
    double tokens = 0;
    std::vector<std::chrono::milliseconds> measured;
    for (; now < kStart + 1000s; now += 250ms) {
      tokens += 10.0 * std::min(limit.limit(), seats) / 4;
      limit.turn(now, {.tokens = static_cast<std::int64_t>(tokens)}, limit.limit(), /*pressed=*/true, 0,
                 /*urgent=*/true);
      if (limit.measures()) measured.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(now - kStart));
    }
    EXPECT_NEAR(limit.limit(), seats, 1 + seats * 0.15);
    const auto late = std::ranges::count_if(measured, [](auto at) { return at >= 200s; });
    EXPECT_LE(late * 250, 20'000) << "three looks in 800 seconds";
    EXPECT_GE(late, 1) << "it still looks";
  }
}

TEST(ConcurrencyLimit, KeepsTheTimeBetweenTokens) {
  ConcurrencyLimit limit({});
  TimePoint now = kStart;
  // Each more makes all slower: 20 ms for a token alone, 60 ms at 41.
  const Curve rate = [](int running) { return running / (0.019 + 0.001 * running); };
  EXPECT_GT(limit_after(limit, rate, now, 300s), 41) << "nobody said that this is too slow";
  const int found = limit_after(limit, rate, now, 600s, 0.06);
  EXPECT_LE(found, 45);
  EXPECT_GE(found, 30);
}

TEST(ConcurrencyLimit, LearnsNothingFromAnIdleDeploymentAndFallsWhereItIsRefused) {
  ConcurrencyLimit limit({});
  TimePoint now = kStart;
  for (int i = 0; i < 1000; ++i) limit.turn(now += 250ms, {.tokens = 10 * i}, 3, false);
  EXPECT_EQ(limit.limit(), 32);
  for (int i = 0; i < 100; ++i) limit.overload(now);
  EXPECT_EQ(limit.limit(), 28) << "those of one moment count once";
  for (int i = 0; i < 200; ++i) limit.overload(now += 1s);
  EXPECT_EQ(limit.limit(), 1);
}

TEST(Reserve, KeepsAsManyPlacesAsUrgentOnesNeed) {
  Reserve reserve;
  EXPECT_EQ(reserve.places(100, 0.1), 0) << "nobody is urgent";
  TimePoint now = kStart;
  const auto load = [&](int urgent, int ended) {
    for (int i = 0; i < 120; ++i) {
      for (int k = 0; k < urgent; ++k) reserve.came();
      for (int k = 0; k < ended; ++k) reserve.ended();
      reserve.turn(now += 1s);
    }
  };
  load(1, 12);
  EXPECT_EQ(reserve.places(100, 0), 2) << "(1/12)^2 = 0.7 of 100";
  EXPECT_EQ(reserve.places(100, 0.1), 10) << "the share that is kept in any case";
  load(4, 10);
  EXPECT_EQ(reserve.places(100, 0), 6) << "0.4^5 = 1.02 of 100";
  load(20, 20);
  EXPECT_EQ(reserve.places(100, 0), 50) << "half at most";
  EXPECT_EQ(reserve.places(1, 0.5), 0) << "and never the only one";
  load(0, 10);
  EXPECT_EQ(reserve.places(100, 0.1), 0) << "a minute after the last";
}

TEST(Outliers, EjectsAfterFailuresInARowForLongerEachTime) {
  Outliers outliers({});
  for (const auto& name : names(3)) outliers.add(name);
  TimePoint now = kStart;
  const auto fail = [&](int times) {
    for (int i = 0; i < times; ++i) outliers.done("replica-0", false, now);
  };
  fail(4);
  outliers.done("replica-0", true, now);
  fail(4);
  EXPECT_FALSE(outliers.ejected("replica-0"));
  fail(1);
  EXPECT_TRUE(outliers.ejected("replica-0"));
  outliers.turn(now += 29s);
  EXPECT_TRUE(outliers.ejected("replica-0"));
  outliers.turn(now += 1s);
  EXPECT_FALSE(outliers.ejected("replica-0"));
  fail(5);
  outliers.turn(now += 31s);
  EXPECT_TRUE(outliers.ejected("replica-0")) << "the second time is longer";
  EXPECT_EQ(outliers.changes().size(), 3U);
}

TEST(Outliers, NeverMoreThanItsShareAndNeverTheLast) {
  Outliers few({});
  few.add("only");
  for (int i = 0; i < 50; ++i) few.done("only", false, kStart);
  EXPECT_FALSE(few.ejected("only"));
  Outliers many({});
  for (const auto& name : names(20)) many.add(name);
  int out = 0;
  for (const auto& name : names(20)) {
    for (int i = 0; i < 5; ++i) many.done(name, false, kStart);
    out += many.ejected(name) ? 1 : 0;
  }
  EXPECT_EQ(out, 2);
}

TEST(Outliers, TheOthersComeBackWhereTheLastOneFails) {
  Outliers outliers({});
  for (const auto& name : names(2)) outliers.add(name);
  for (int i = 0; i < 5; ++i) outliers.done("replica-0", false, kStart);
  EXPECT_TRUE(outliers.ejected("replica-0"));
  for (int i = 0; i < 4; ++i) outliers.done("replica-1", false, kStart + 5s);
  EXPECT_TRUE(outliers.ejected("replica-0"));
  outliers.done("replica-1", false, kStart + 5s);
  EXPECT_FALSE(outliers.ejected("replica-0"));
  EXPECT_TRUE(outliers.ejected("replica-1"));
  outliers.done("replica-1", true, kStart + 6s);
  EXPECT_FALSE(outliers.ejected("replica-1")) << "it was asked in need, and answered";
  ASSERT_EQ(outliers.changes().size(), 4U);
}

TEST(Outliers, ASweepFindsTheOneWhoseRateIsFarBelowTheOthers) {
  Outliers outliers({.consecutive = 0});
  for (const auto& name : names(10)) outliers.add(name);
  outliers.turn(kStart);
  std::mt19937 random{1};
  for (int i = 0; i < 200; ++i)
    for (const auto& name : names(10)) outliers.done(name, random() % 100 >= (name == "replica-7" ? 30U : 1U), kStart);
  outliers.turn(kStart + 10s);
  for (const auto& name : names(10)) EXPECT_EQ(outliers.ejected(name), name == "replica-7");
}

TEST(Sessions, LiveForAWhileAndAreBounded) {
  Sessions sessions(60s, 3);
  sessions.set("a", "1", kStart);
  EXPECT_EQ(sessions.find("a", kStart + 50s), "1");
  EXPECT_EQ(sessions.find("a", kStart + 100s), "1") << "used, it lives on";
  EXPECT_EQ(sessions.find("a", kStart + 161s), "");
  for (const char* key : {"b", "c", "d"}) sessions.set(key, "2", kStart + 200s);
  EXPECT_EQ(sessions.find("b", kStart + 201s), "2");
  sessions.set("e", "3", kStart + 202s);
  EXPECT_EQ(sessions.find("c", kStart + 203s), "") << "used longest ago";
  EXPECT_EQ(sessions.find("b", kStart + 203s), "2");
  EXPECT_EQ(sessions.size(), 3U);
  sessions.set("b", "9", kStart + 204s);
  EXPECT_EQ(sessions.find("b", kStart + 204s), "9");
}

TEST(PrefixIndex, MatchesLeadingBlocksAndForgetsTheOldest) {
  const std::vector<std::uint64_t> blocks = {11, 12, 13, 14, 15, 16, 17, 18};
  PrefixIndex index(10);
  index.sent(blocks);
  EXPECT_EQ(index.match(blocks), 8U);
  auto fork = blocks;
  fork[3] = 77;
  EXPECT_EQ(index.match(fork), 3U);
  const std::vector<std::uint64_t> more = {1, 2, 3, 4, 5};
  index.sent(more);
  EXPECT_EQ(index.size(), 10U);
  EXPECT_EQ(index.match(more), 5U);
  EXPECT_EQ(index.match(blocks), 5U) << "a chain loses its end first";
  index.sent(more, kStart);
  EXPECT_EQ(index.match(more, kStart), 5U);
  EXPECT_EQ(index.match(more, kStart + 1s), 0U) << "that was long ago";
}

TEST(WaitingRoom, TheUrgentGoFirstAndTheLeastUrgentMakesRoom) {
  WaitingRoom room({.most = 3});
  const auto waiter = [](std::uint64_t id) { return WaitingRoom::Waiter{.id = id, .group = "g", .work = 10}; };
  EXPECT_TRUE(room.offer({0, 1}, waiter(1), 0, kStart).admitted);
  EXPECT_TRUE(room.offer({5, 2}, waiter(2), 0, kStart).admitted);
  EXPECT_TRUE(room.offer({-1, 3}, waiter(3), 0, kStart).admitted);
  EXPECT_FALSE(room.offer({5, 4}, waiter(4), 0, kStart).admitted);
  const auto verdict = room.offer({0, 5}, waiter(5), 0, kStart);
  EXPECT_TRUE(verdict.admitted);
  EXPECT_EQ(verdict.evicted, 2U);
  for (const std::uint64_t id : {3U, 1U, 5U}) EXPECT_EQ(room.next("g")->second.id, id);
  EXPECT_FALSE(room.next("g"));
}

TEST(WaitingRoom, TurnsAwayWhomItCouldNotAnswerInTime) {
  WaitingRoom room({.max_wait = 2000ms});
  WorkRate rate;
  for (int i = 0; i < 10; ++i) rate.done(100, kStart + i * 1s);
  const TimePoint now = kStart + 10s;
  EXPECT_NEAR(rate.per_second(now), 100, 12);
  EXPECT_EQ(WorkRate().per_second(now), 0);
  for (std::uint64_t id = 1; id <= 2; ++id)
    EXPECT_TRUE(room.offer({0, id}, {.id = id, .group = "g", .work = 110}, 100, now).admitted);
  EXPECT_FALSE(room.offer({0, 3}, {.id = 3, .group = "g", .work = 1}, 100, now).admitted);
  EXPECT_TRUE(room.offer({-1, 4}, {.id = 4, .group = "g", .work = 1}, 100, now).admitted) << "nobody is before it";
  EXPECT_TRUE(room.offer({0, 5}, {.id = 5, .group = "other", .work = 1}, 100, now).admitted);
  EXPECT_FALSE(room.offer({0, 6}, {.id = 6, .group = "g", .work = 1, .deadline = now + 1s}, 100, now).admitted);
  EXPECT_EQ(room.next_expiry(), now + 2s);
  EXPECT_TRUE(room.expired(now + 1999ms).empty());
  EXPECT_EQ(room.expired(now + 2s).size(), 4U);
  EXPECT_EQ(room.size(), 0U);
}

}  // namespace
}  // namespace ashlar::gateway
