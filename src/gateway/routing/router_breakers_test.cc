#include "gateway/routing/router.h"

#include <gtest/gtest.h>

#include <random>

#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using fake::ask;
using fake::House;
using fake::Sink;

TEST(Router, RetriesStayWithinTheirBudget) {
  House house(2);
  house.options.fleet.outliers.consecutive = 0;
  for (auto& deployment : house.table.deployments) deployment.breaker.error_rate = 2;
  auto& router = house.open();
  house[0].refusal = house[1].refusal = engine::Generator::Refusal{.error = {Code::io, "gone"}};
  Sink sink;
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(router.route(ask(), {}, sink));
  EXPECT_LE(house[0].started + house[1].started, 1200 + 10);
  EXPECT_GE(house[0].started + house[1].started, 1200);
}

TEST(Router, SixtyPercentErrorsOpenTheBreakerAndItCloses) {
  House house(2);
  house.options.fleet.outliers.consecutive = 0;
  auto& router = house.open();
  std::mt19937 random{7};
  const TimePoint start = house.now;
  bool trouble = true;
  house[0].on_start = [&](auto& call) {
    if (trouble && random() % 10 < 6)
      call.fail(Code::unavailable);
    else
      call.answer("a");
  };
  house[1].on_start = [](auto& call) { call.answer("b"); };
  int asked = 0, failed = 0;
  for (; house.now < start + 60s; ++asked) {
    trouble = house.now < start + 15s;
    Sink sink;
    const auto ticket = router.route(ask(), {}, sink);
    house.pass(50ms);
    failed += sink.over == 1 && !sink.error ? 0 : 1;
  }
  const auto when = [&](std::string_view what) {
    for (const RouteEvent& event : house.events)
      if (event.what == what) return event.time - start;
    return std::chrono::nanoseconds{-1};
  };
  EXPECT_EQ(failed, 0);
  EXPECT_LE(when("breaker_open"), 10s);
  EXPECT_GE(when("breaker_half_open"), 15s);
  EXPECT_GT(when("breaker_closed"), when("breaker_half_open"));
  EXPECT_LE(house[0].started + house[1].started, asked * 12 / 10);
  EXPECT_EQ(house.router->state()[0]["breaker"], "closed");
}

TEST(Router, WhereEverybodyIsOutItSaysSoAtOnceAndWhenToComeBack) {
  House house(1);
  auto& router = house.open();
  ASSERT_TRUE(router.force("a", Breaker::Mode::forced_open));
  house.pass(300ms);
  EXPECT_TRUE(house.happened("degraded"));
  Sink sink;
  const auto refused = router.route(ask(), {}, sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.code, Code::unavailable);
  EXPECT_GE(refused.error().retry_after, 1s);
  EXPECT_EQ(house[0].started, 0);
  ASSERT_TRUE(router.force("a", Breaker::Mode::automatic));
  house.pass(300ms);
  EXPECT_TRUE(house.happened("recovered"));
  EXPECT_FALSE(router.force("nobody", Breaker::Mode::automatic));
}

TEST(Router, ReadsQueueAndMemoryFromTheDeployment) {
  House house(2);
  auto& router = house.open();
  house[0].told.waiting = 1001;
  house.pass(300ms);
  Sink sink;
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(router.route(ask(), {}, sink));
  EXPECT_EQ(house[0].started, 0);
  house[1].told.kv_used = 0.99;
  house.pass(6s);
  EXPECT_FALSE(router.route(ask(), {}, sink));
}

TEST(Router, DroppingATicketDropsTheAttemptAlsoFromInsideTheSink) {
  House house;
  auto& router = house.open();
  Sink sink;
  std::optional<std::unique_ptr<RouteTicket>> ticket = std::move(*router.route(ask(), {}, sink));
  sink.then = [&] { ticket.reset(); };
  house[0].last().start();
  house[0].last().text("x");
  EXPECT_EQ(sink.events.size(), 1U);
  house[0].last().text("y");
  EXPECT_EQ(sink.events.size(), 1U);
  router.turn();
  EXPECT_EQ(house[0].alive(), 0);
  ASSERT_EQ(house.traces.size(), 1U);
  EXPECT_EQ(house.traces[0].tries[0].outcome, "cancelled");
}

TEST(Router, OneThatWasEjectedIsAskedWhereTheLastOneFailsAndComesBackThen) {
  House house(2);
  bool broken[] = {true, false};
  for (std::size_t i = 0; i < 2; ++i)
    house[i].on_start = [&broken, i](auto& call) { broken[i] ? call.fail(Code::io) : call.answer("x"); };
  auto& router = house.open();
  const auto all_answered = [&](int count) {
    for (int i = 0; i < count; ++i) {
      Sink sink;
      const auto ticket = router.route(ask(), {}, sink);
      router.turn();
      if (!ticket || sink.error) return false;
      house.now += 100ms;
    }
    return true;
  };
  EXPECT_TRUE(all_answered(20));
  const int failed = house[0].started;
  EXPECT_TRUE(all_answered(20));
  EXPECT_EQ(house[0].started, failed) << "it is ejected";
  std::swap(broken[0], broken[1]);  // it was started again, and the other one dies
  EXPECT_TRUE(all_answered(20));
  const int others = house[1].started;
  EXPECT_TRUE(all_answered(20));
  EXPECT_EQ(house[1].started, others);
}

}  // namespace
}  // namespace ashlar::gateway
