#include "gateway/routing/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using fake::ask;
using fake::House;
using fake::Sink;

TEST(Router, ATableThatLeadsNowhereIsRefusedAndChangesNothing) {
  House house;
  auto& router = house.open();
  const auto refuse = [&](auto&& edit) {
    RouteTable table = router.table();
    edit(table);
    EXPECT_FALSE(router.set_table(table));
    EXPECT_EQ(router.table().deployments.size(), 2U);
  };
  refuse([](RouteTable& table) { table.aliases["x"] = "nowhere"; });
  refuse([](RouteTable& table) { table.groups[0].fallbacks[Cause::error] = {"nowhere"}; });
  refuse([](RouteTable& table) { table.groups.push_back(table.groups[0]); });
  refuse([](RouteTable& table) { table.deployments.push_back(table.deployments[0]); });
  refuse([](RouteTable& table) { table.deployments[0].generator = nullptr; });
  refuse([](RouteTable& table) { table.deployments[0].weight = -1; });
  refuse([](RouteTable& table) { table.deployments[0].weight = std::numeric_limits<double>::quiet_NaN(); });
  refuse([](RouteTable& table) { table.deployments[0].group = "nowhere"; });
  refuse([](RouteTable& table) {
    table.groups.push_back({.name = "t", .tiers = Tiers{.low = "g", .middle = "g", .high = "t"}});
  });
  EXPECT_FALSE(router.remove("nobody"));
}

TEST(Router, DeploymentsComeAndGoWithWhatTheyHave) {
  House house(2);
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  ASSERT_TRUE(router.remove("a"));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(router.route(ask(), {}, sink));
  EXPECT_EQ(house[0].started, 1);
  house[0].last().answer("still here");
  EXPECT_EQ(sink.words, "still here");
  // A change of weight keeps what is known.
  ASSERT_TRUE(router.force("b", Breaker::Mode::forced_open));
  RouteTable table = router.table();
  table.deployments[0].weight = 5;
  ASSERT_TRUE(router.set_table(table));
  EXPECT_EQ(router.state()[0]["breaker"], "open");
}

// What is known of a deployment is known of whoever stands behind its name.
TEST(Router, BreakersAndEjectionsOutliveANewTableUnlessSomebodyElseAnswers) {
  for (const bool ejection : {true, false}) {
    House house(3);
    if (!ejection) house.options.fleet.outliers.consecutive = 0;
    auto& router = house.open();
    house[0].on_start = [](auto& call) { call.fail(Code::unavailable); };
    for (int i : {1, 2}) house[static_cast<std::size_t>(i)].on_start = [](auto& call) { call.answer("fine"); };
    const auto out = [&](const std::string& name) {
      for (const Json& each : router.state())
        if (each["name"] == name) return ejection ? each["ejected"].get<bool>() : each["breaker"] == "open";
      return false;
    };
    const auto fall_out = [&] {
      for (int i = 0; i < 500 && !out("a"); ++i) {
        Sink sink;
        const auto ticket = router.route(ask(), {}, sink);
        house.pass(50ms);
      }
      return out("a");
    };
    ASSERT_TRUE(fall_out()) << ejection;
    EXPECT_FALSE(out("b"));

    RouteTable table = router.table();
    table.deployments[0].weight = 5;
    table.deployments[1].max_concurrent = 7;
    table.groups[0].strategy = Strategy::weighted;
    ASSERT_TRUE(router.set_table(table));
    EXPECT_TRUE(out("a")) << "another weight, the same server";
    table.deployments.erase(table.deployments.begin() + 2);
    ASSERT_TRUE(router.set_table(table));
    EXPECT_TRUE(out("a")) << "another is gone";

    RouteTable other = router.table();
    other.deployments[0].model = "another";
    ASSERT_TRUE(router.set_table(other));
    EXPECT_FALSE(out("a")) << "another model";
    ASSERT_TRUE(router.set_table(table));
    ASSERT_TRUE(fall_out());
    other = router.table();
    house.generators.push_back(std::make_shared<fake::Generator>());
    other.deployments[0].generator = house.generators.back();
    ASSERT_TRUE(router.set_table(other));
    EXPECT_FALSE(out("a")) << "another server";
  }
}

TEST(Router, AliasesGroupsAndAdaptersAreListedAndFound) {
  House house(2);
  house.table.aliases["gpt-4o"] = "g";
  house.table.deployments[0].model = "m";
  house[1].cards.push_back({.id = "lora", .parent = "m"});
  auto& router = house.open();
  std::vector<std::string> ids;
  for (const auto& card : router.models()) ids.push_back(card.id);
  EXPECT_THAT(ids, testing::ElementsAre("g", "gpt-4o", "lora"));
  Sink sink;
  auto first = router.route(ask("x", "gpt-4o"), {}, sink);
  EXPECT_EQ(house[0].last().request.model, "m");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(router.route(ask("x", "lora"), {}, sink));
  EXPECT_EQ(house[1].started, 3);
  EXPECT_EQ(house[1].last().request.model, "lora");
  EXPECT_EQ(router.route(ask("x", "unknown"), {}, sink).error().error.code, Code::not_found);
  EXPECT_EQ(*router.render("gpt-4o", {}), "m");
  EXPECT_FALSE(router.render("unknown", {}));
}

TEST(Router, WhoAsksARouteForTokensWaitsForItsModel) {
  House house;
  house.table.aliases = {{"alias", "g"}};
  house.table.deployments[0].model = "m";
  house.open();
  std::string rendered;
  for (const char* name : {"g", "alias"})
    house.router->when_ready(name, [&](Result<const engine::Generator*> ready) {
      ASSERT_TRUE(ready);
      rendered = *(*ready)->render(name, {});
    });
  EXPECT_EQ(rendered, "m") << "the model is asked under its own name";
  house[0].ready = false;
  std::string why;
  house.router->when_ready("g", [&](const auto& ready) { why = ready.error().message; });
  EXPECT_EQ(why, "cannot load m");
  house.router->when_ready("nobody", [&](const auto& ready) { why = ready.error().message; });
  EXPECT_NE(why.find("nobody"), why.npos);
}

}  // namespace
}  // namespace ashlar::gateway
