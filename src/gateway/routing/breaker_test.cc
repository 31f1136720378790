#include "gateway/routing/breaker.h"

#include <gtest/gtest.h>

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using State = Breaker::State;

const Breaker::TimePoint kStart{1000s};

struct Bench {
  Breaker breaker{BreakerOptions{}};
  Breaker::TimePoint now = kStart;
  // A call that ends at once. false: it was refused.
  bool call(bool good, std::chrono::milliseconds first_token = 100ms) {
    if (!breaker.admits(now)) return false;
    breaker.done(breaker.begin(), good, first_token, now);
    return true;
  }
};

TEST(Breaker, OpensWithinItsWindowWhenSixtyPercentFailAndClosesAfterProbes) {
  Bench bench;
  for (int i = 0; i < 200; ++i, bench.now += 100ms) EXPECT_TRUE(bench.call(true));
  const auto trouble = bench.now;
  std::optional<Breaker::TimePoint> opened, closed;
  for (int i = 0; bench.now < trouble + 60s; ++i, bench.now += 50ms) {
    const bool bad = bench.now < trouble + 15s && i % 5 < 3;
    bench.call(!bad);
    if (!opened && bench.breaker.state() == State::open) opened = bench.now;
    if (opened && !closed && bench.breaker.state() == State::closed) closed = bench.now;
  }
  ASSERT_TRUE(opened);
  EXPECT_LE(*opened - trouble, 10s);
  ASSERT_TRUE(closed);
  EXPECT_GE(*closed - *opened, 15s);
  EXPECT_LE(*closed - trouble, 40s);
}

TEST(Breaker, AFewCallsProveNothing) {
  Bench bench;
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(bench.call(false));
  EXPECT_EQ(bench.breaker.state(), State::closed);
  EXPECT_TRUE(bench.call(false));
  EXPECT_EQ(bench.breaker.state(), State::open);
  EXPECT_FALSE(bench.call(true));
}

TEST(Breaker, HalfAreNotMoreThanHalf) {
  Bench bench;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(bench.call(i % 2 == 0));
  EXPECT_EQ(bench.breaker.state(), State::closed);
}

TEST(Breaker, OldFailuresLeaveTheWindow) {
  Bench bench;
  for (int i = 0; i < 9; ++i) bench.call(false);
  bench.now += 11s;
  for (int i = 0; i < 9; ++i) bench.call(true);
  for (int i = 0; i < 9; ++i) bench.call(false);
  EXPECT_EQ(bench.breaker.state(), State::closed);
}

TEST(Breaker, OpensWhenTheNinetyNinthPercentileIsSlowForAMinute) {
  Bench bench;
  const auto slow_from = bench.now;
  while (bench.breaker.state() == State::closed && bench.now < slow_from + 200s) {
    bench.call(true, bench.now.time_since_epoch() % 5s == 0s ? 11'000ms : 200ms);
    bench.now += 100ms;
  }
  EXPECT_GE(bench.now - slow_from, 60s);
  EXPECT_LE(bench.now - slow_from, 71s);
}

TEST(Breaker, OneInAHundredSlowIsStillFine) {
  Bench bench;
  for (int i = 1; i < 5000; ++i, bench.now += 20ms) bench.call(true, i % 200 == 0 ? 30'000ms : 50ms);
  EXPECT_EQ(bench.breaker.state(), State::closed);
}

TEST(Breaker, AMinuteOfSlowCallsBeginsAgainAfterAFastWindow) {
  Bench bench;
  for (int i = 0; i < 500; ++i, bench.now += 100ms) bench.call(true, 20s);
  for (int i = 0; i < 200; ++i, bench.now += 100ms) bench.call(true, 1s);
  for (int i = 0; i < 500; ++i, bench.now += 100ms) bench.call(true, 20s);
  EXPECT_EQ(bench.breaker.state(), State::closed);
}

TEST(Breaker, QueueAndMemoryOpenItAndKeepItOpen) {
  Bench bench;
  bench.breaker.signal({.queue = 1000}, bench.now);
  EXPECT_EQ(bench.breaker.state(), State::closed);
  bench.breaker.signal({.queue = 1001}, bench.now);
  EXPECT_EQ(bench.breaker.state(), State::open);
  bench.now += 60s;
  EXPECT_FALSE(bench.breaker.admits(bench.now)) << "the queue is still as long";
  bench.breaker.signal({.queue = 3}, bench.now);
  EXPECT_TRUE(bench.breaker.admits(bench.now));
  EXPECT_EQ(bench.breaker.state(), State::half_open);

  Bench full;
  full.breaker.signal({.memory = 0.96}, full.now);
  EXPECT_EQ(full.breaker.state(), State::closed) << "a moment is no alarm";
  full.breaker.signal({.memory = 0.96}, full.now += 5s);
  EXPECT_EQ(full.breaker.state(), State::open);
}

TEST(Breaker, HalfOpenLetsFewThroughAndABadProbeOpensItAgain) {
  Bench bench;
  for (int i = 0; i < 10; ++i) bench.call(false);
  bench.now += 15s;
  std::vector<Breaker::Call> probes;
  while (bench.breaker.admits(bench.now)) probes.push_back(bench.breaker.begin());
  EXPECT_EQ(probes.size(), 3U);
  bench.breaker.done(probes[0], true, 1ms, bench.now);
  bench.breaker.drop(probes[1]);
  EXPECT_TRUE(bench.breaker.admits(bench.now)) << "a place is free again";
  bench.breaker.done(probes[2], false, 1ms, bench.now);
  EXPECT_EQ(bench.breaker.state(), State::open);
  bench.now += 15s;
  EXPECT_TRUE(bench.breaker.admits(bench.now));
}

TEST(Breaker, CallsOfAnOlderEraDecideNothing) {
  Bench bench;
  const Breaker::Call old = bench.breaker.begin();
  for (int i = 0; i < 10; ++i) bench.call(false);
  bench.now += 15s;
  EXPECT_TRUE(bench.breaker.admits(bench.now));
  bench.breaker.done(old, false, 1ms, bench.now);
  EXPECT_EQ(bench.breaker.state(), State::half_open);
}

TEST(Breaker, IsForcedAndToldOf) {
  Bench bench;
  bench.breaker.force(Breaker::Mode::forced_open, bench.now);
  EXPECT_FALSE(bench.breaker.admits(bench.now));
  const auto change = bench.breaker.changed();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->state, State::open);
  EXPECT_FALSE(bench.breaker.changed());
  bench.breaker.force(Breaker::Mode::forced_closed, bench.now);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(bench.call(false));
  bench.breaker.force(Breaker::Mode::watching, bench.now);
  EXPECT_EQ(bench.breaker.state(), State::open) << "it tells what it would do";
  EXPECT_TRUE(bench.call(false));
  bench.breaker.force(Breaker::Mode::automatic, bench.now);
  EXPECT_TRUE(bench.breaker.admits(bench.now));
  EXPECT_EQ(bench.breaker.state(), State::half_open);
}

}  // namespace
}  // namespace ashlar::gateway
