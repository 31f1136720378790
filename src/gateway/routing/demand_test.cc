#include "gateway/routing/demand.h"

#include <gtest/gtest.h>

#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;

TEST(Demand, FollowsItsFormula) {
  Demand demand({});
  Demand::TimePoint now{1000s};
  EXPECT_EQ(demand.look({.ready = 2}, 0, now), 0) << "nobody ever asked";
  EXPECT_EQ(demand.look({.ready = 2, .running = 1}, 0, now), 1);
  // Half of the places of two: one at 70 % would not do.
  EXPECT_EQ(demand.look({.ready = 2, .running = 10, .places = 20, .placed = 1.0}, 0, now), 2);
  EXPECT_EQ(demand.look({.ready = 2, .running = 20, .places = 20, .placed = 2.0}, 0, now), 3);
  EXPECT_EQ(demand.look({.ready = 2, .running = 20, .memory = 1.9}, 0, now), 3);
  // 5,000 tokens a second of 1,000 each, and 60,000 that wait and should be gone in 30 s.
  EXPECT_EQ(demand.look({.ready = 5, .running = 9, .waiting = 9, .waiting_tokens = 60'000, .tokens_per_second = 5000},
                        1000, now),
            10);
}

TEST(Demand, MeasuresCapacityOnlyWhereThereIsNoMoreToBeHad) {
  Demand demand({});
  Demand::TimePoint now{1000s};
  demand.look({.ready = 1, .running = 1, .places = 8, .tokens_per_second = 100}, 0, now);
  EXPECT_EQ(demand.capacity(), 0) << "an idle one says nothing";
  demand.look({.ready = 2, .running = 16, .waiting = 1, .places = 16, .tokens_per_second = 4000}, 0, now);
  EXPECT_EQ(demand.capacity(), 2000);
  demand.look({.ready = 2, .running = 1, .tokens_per_second = 1}, 0, now + 1h);
  EXPECT_NEAR(demand.capacity(), 1000, 1);
}

TEST(Demand, NobodyIsNeededWhereNobodyAsks) {
  Demand demand({});
  Demand::TimePoint now{1000s};
  EXPECT_EQ(demand.look({.ready = 1, .running = 1}, 0, now), 1);
  EXPECT_EQ(demand.look({.ready = 1}, 0, now + 9min), 1);
  EXPECT_EQ(demand.look({.ready = 1}, 0, now + 10min), 0);
  EXPECT_EQ(demand.look({.waiting = 1}, 0, now + 11min), 2) << "the one that waits, at 70 %";
}

TEST(Demand, StandsInTheMetricsOfEachRoute) {
  fake::House house(2);
  for (auto& each : house.table.deployments) each.max_concurrent = 2;
  Router& router = house.open();
  fake::Sink sinks[5];
  std::vector<std::unique_ptr<engine::Ticket>> tickets;
  for (auto& sink : sinks)
    if (auto ticket = router.start(fake::ask(), sink)) tickets.push_back(std::move(*ticket));
  house.pass(300ms);
  const std::string page = metrics::render();
  for (const char* line :
       {"ashlar_gateway_route_queue{route=\"g\"} 1\n", "ashlar_gateway_route_requests{route=\"g\"} 4\n",
        "ashlar_gateway_route_ready_deployments{route=\"g\"} 2\n",
        "ashlar_gateway_route_desired_replicas{route=\"g\"} 5\n"})
    EXPECT_NE(page.find(line), std::string::npos) << line << page;
}

}  // namespace
}  // namespace ashlar::gateway
