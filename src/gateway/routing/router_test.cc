#include "gateway/routing/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using fake::ask;
using fake::House;
using fake::Sink;

TEST(Router, HandsEventsOnInOrderAndTellsItsWay) {
  House house;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  ASSERT_TRUE(ticket);
  house[0].last().start();
  EXPECT_TRUE(sink.events.empty()) << "Started is held back until a token comes";
  house[0].last().text("hi");
  house[0].last().finish();
  ASSERT_EQ(sink.events.size(), 4U);
  EXPECT_EQ(std::get<engine::Started>(sink.events[0]).prompt_tokens, 7);
  EXPECT_EQ(sink.words, "hi");
  EXPECT_TRUE(std::holds_alternative<engine::Finished>(sink.events[3]));
  EXPECT_EQ((*ticket)->trace().answered_by(), "a");
  EXPECT_EQ((*ticket)->trace().header(), "group=g strategy=least-outstanding choice=least-outstanding tries=a:ok");
  EXPECT_EQ(house.traces.size(), 1U);
  EXPECT_EQ(house[0].alive(), 1);
  ticket->reset();
  EXPECT_EQ(house[0].alive(), 0);
}

TEST(Router, AFailureBeforeTheFirstTokenIsMadeGoodElsewhere) {
  House house;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  house[0].last().start();
  house[0].last().fail(Code::io, "connection reset");
  EXPECT_EQ(house[1].started, 0) << "not on the generator's own thread";
  router.turn();
  EXPECT_EQ(house[0].alive(), 0);
  house[1].last().answer("from b");
  EXPECT_EQ(sink.words, "from b");
  EXPECT_EQ(sink.started, 1);
  EXPECT_FALSE(sink.error);
  const RouteTrace trace = (*ticket)->trace();
  ASSERT_EQ(trace.tries.size(), 2U);
  EXPECT_EQ(trace.tries[0].code, "io");
  EXPECT_EQ(trace.tries[0].cause, Cause::error);
  EXPECT_EQ(trace.json()["tries"][0]["detail"], "connection reset");
}

TEST(Router, AfterTheFirstTokenAFailureIsTold) {
  House house;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  house[0].last().start();
  house[0].last().text("half of");
  house[0].last().fail(Code::io);
  router.turn();
  EXPECT_EQ(house[1].started, 0);
  EXPECT_EQ(sink.words, "half of");
  ASSERT_TRUE(sink.error);
  EXPECT_EQ(sink.over, 1);
}

TEST(Router, RefusalsGoToTheNextAtOnceAndTheLastOneIsTold) {
  House house(4);
  house[0].refusal = engine::Generator::Refusal{.error = {Code::exhausted, "full"}};
  house[1].refusal = house[0].refusal;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  ASSERT_TRUE(ticket);
  EXPECT_EQ(house[2].started, 1);
  house[2].refusal = engine::Generator::Refusal{.error = {Code::unavailable, "draining"}, .retry_after = 3s};
  auto refused = router.route(ask(), {}, sink);  // the third has more to do, but is the only one of three attempts left
  house[3].refusal = house[2].refusal;
  refused = router.route(ask(), {}, sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.message, "draining");
  EXPECT_EQ(refused.error().retry_after, 3s);
}

TEST(Router, WhatTheCallerDidWrongIsNotTriedTwiceAndNotHeldAgainstTheDeployment) {
  House house;
  auto& router = house.open();
  house[0].refusal = house[1].refusal = engine::Generator::Refusal{.error = {Code::invalid, "top_p is 7"}};
  Sink sink;
  for (int i = 0; i < 50; ++i) EXPECT_EQ(router.route(ask(), {}, sink).error().error.code, Code::invalid);
  EXPECT_EQ(house[0].started + house[1].started, 50);
  EXPECT_TRUE(house.events.empty());
}

TEST(Router, ADeploymentThatHangsBeforeItsFirstTokenLosesTheRequest) {
  House house;
  house.options.first_token = 2000ms;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  house[0].last().start();
  house.pass(1900ms);
  EXPECT_EQ(house[1].started, 0);
  house.pass(200ms);
  EXPECT_EQ(house[0].alive(), 0);
  ASSERT_EQ(house[1].started, 1);
  house[1].last().answer("b");
  EXPECT_EQ(sink.words, "b");
  EXPECT_EQ((*ticket)->trace().tries[0].outcome, "timeout");
}

TEST(Router, AnAnswerThatStopsInItsMiddleFails) {
  House house;
  house.options.between_tokens = 1000ms;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  house[0].last().start();
  for (int i = 0; i < 5; ++i) {
    house[0].last().text("x");
    house.pass(900ms);
  }
  EXPECT_FALSE(sink.error);
  house.pass(200ms);
  ASSERT_TRUE(sink.error);
  EXPECT_EQ(sink.error->code, Code::deadline);
}

TEST(Router, ADeadlineIsKeptForAGeneratorThatForgotIt) {
  House house;
  auto& router = house.open();
  Sink sink;
  auto request = ask();
  request.deadline = house.now + 5s;
  auto ticket = router.route(std::move(request), {}, sink);
  house.pass(5200ms);
  ASSERT_TRUE(sink.error);
  EXPECT_EQ(sink.error->code, Code::deadline);
  EXPECT_EQ(house[1].started, 0);
}

TEST(Router, GarbageIsAFailure) {
  const std::vector<std::function<void(fake::Generator::Call&)>> garbage = {
      [](auto& call) { call.say(engine::Text{.choice = 7, .text = "x"}); },
      [](auto& call) { call.say(engine::Text{.choice = -1, .text = "x"}); },
      [](auto& call) {
        call.start();
        call.start();
      },
      [](auto& call) { call.say(engine::Finished{}); },
      [](auto& call) { call.say(engine::ChoiceEnd{.choice = 1}); },
  };
  for (const auto& say : garbage) {
    House house;
    auto& router = house.open();
    Sink sink;
    auto ticket = router.route(ask(), {}, sink);
    say(house[0].last());
    router.turn();
    ASSERT_EQ(house[1].started, 1);
    EXPECT_TRUE(sink.events.empty());
    EXPECT_EQ((*ticket)->trace().tries[0].outcome, "garbage");
    house[1].last().answer("fine");
    EXPECT_EQ(sink.words, "fine");
  }
  House house;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  house[0].last().start();
  house[0].last().say(engine::ChoiceEnd{});
  house[0].last().text("more");
  ASSERT_TRUE(sink.error) << "a choice went on after its end";
  EXPECT_EQ(sink.error->code, Code::corrupt);
  house[0].last().text("and more");
  EXPECT_EQ(sink.over, 1) << "nothing comes after the end";
}

TEST(Router, FallbacksGoByTheirCause) {
  House house(1);
  house.table.groups = {{.name = "g",
                         .fallbacks = {{Cause::context, {"long"}},
                                       {Cause::error, {"other"}},
                                       {Cause::policy, {"strict"}},
                                       {Cause::budget, {"cheap"}}}},
                        {.name = "long"},
                        {.name = "other"},
                        {.name = "strict"},
                        {.name = "cheap"}};
  for (const char* name : {"long", "other", "strict", "cheap"}) house.add(name, name);
  std::optional<Cause> forbidden;
  house.options.permit = [&](const auto&, const auto&, const Deployment& deployment) {
    return deployment.name == "a" ? Permit{.refused = forbidden, .why = "as said"} : Permit{};
  };
  auto& router = house.open();
  const auto goes_to = [&](std::optional<engine::Generator::Refusal> refusal) {
    house[0].refusal = std::move(refusal);
    Sink sink;
    auto ticket = router.route(ask(), {}, sink);
    EXPECT_TRUE(ticket);
    return (*ticket)->trace().tries.back().deployment;
  };
  EXPECT_EQ(goes_to(engine::Generator::Refusal{.error = {Code::invalid, "too long"}, .over_context = true}), "long");
  EXPECT_EQ(goes_to(engine::Generator::Refusal{.error = {Code::io, "gone"}}), "other");
  EXPECT_EQ(goes_to(engine::Generator::Refusal{.error = {Code::forbidden, "content policy"}}), "strict");
  EXPECT_EQ(
      goes_to(engine::Generator::Refusal{.error = {Code::invalid, "filtered"}, .reason = "content_policy_violation"}),
      "strict");
  EXPECT_EQ(goes_to(engine::Generator::Refusal{.error = {Code::unavailable, "used up"}, .reason = "upstream_quota"}),
            "cheap");
  EXPECT_EQ(router.fallbacks("g", Cause::budget), std::vector<std::string>{"cheap"});
  EXPECT_TRUE(router.fallbacks("nobody", Cause::budget).empty());
  forbidden = Cause::budget;
  EXPECT_EQ(goes_to(std::nullopt), "cheap");
  forbidden = Cause::policy;
  EXPECT_EQ(goes_to(std::nullopt), "strict");
}

TEST(Router, WhatOneMayNotSayOthersOfItsGroupAreNotAsked) {
  House house(2);
  const engine::Generator::Refusal filtered{
      .error = {Code::invalid, "filtered"}, .status = 400, .reason = "content_policy_violation"};
  house[0].refusal = house[1].refusal = filtered;
  house.table.groups = {{.name = "g"}, {.name = "p", .fallbacks = {{Cause::policy, {"h"}}}}, {.name = "h"}};
  house.add("c", "p"), house.add("d", "p"), house.add("e", "h");
  house[2].refusal = house[3].refusal = filtered;
  auto& router = house.open();
  Sink sink;
  auto told = router.route(ask(), {}, sink);
  ASSERT_FALSE(told);
  EXPECT_EQ(told.error().reason, "content_policy_violation");
  EXPECT_EQ(house[0].started + house[1].started, 1) << "nobody looks for one that lets it pass";
  auto other = ask();
  other.model = "p";
  auto ticket = router.route(std::move(other), {}, sink);
  ASSERT_TRUE(ticket);
  EXPECT_EQ((*ticket)->trace().tries.back().deployment, "e");
  EXPECT_EQ(house[2].started + house[3].started, 1);
}

TEST(Router, AnAccountThatIsUsedUpIsAnyFailureWhereNothingElseIsSaid) {
  House house(1);
  house.table.groups = {{.name = "g", .fallbacks = {{Cause::error, {"h"}}}}, {.name = "h"}};
  house.add("b", "h");
  house[0].refusal =
      engine::Generator::Refusal{.error = {Code::unavailable, "used up"}, .status = 503, .reason = "upstream_quota"};
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  ASSERT_TRUE(ticket);
  EXPECT_EQ((*ticket)->trace().tries.back().deployment, "b");
}

TEST(Router, AFailureKeepsItsWordsWhenNobodyElseAnswers) {
  House house(1);
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  ASSERT_TRUE(ticket);
  house[0].last().say(
      engine::Failed{.error = {Code::unavailable, "says: bad"}, .status = 502, .reason = "upstream_error"});
  router.turn();
  const auto* failed = sink.events.empty() ? nullptr : std::get_if<engine::Failed>(&sink.events.back());
  ASSERT_NE(failed, nullptr);
  EXPECT_EQ(failed->status, 502);
  EXPECT_EQ(failed->reason, "upstream_error");
}

TEST(Router, FallbacksThatLeadInACircleEnd) {
  House house(1);
  house.options.max_attempts = 10;
  house.table.groups = {{.name = "g", .fallbacks = {{Cause::error, {"h", "g"}}}},
                        {.name = "h", .fallbacks = {{Cause::error, {"g", "h"}}}}};
  house.add("b", "h");
  house[0].refusal = house[1].refusal = engine::Generator::Refusal{.error = {Code::io, "gone"}};
  auto& router = house.open();
  Sink sink;
  EXPECT_FALSE(router.route(ask(), {}, sink));
  EXPECT_EQ(house[0].started + house[1].started, 2);
}

TEST(Router, APromptGoesOnlyWhereItFits) {
  House house(3);
  house.table.deployments[0].context = 100;
  house.table.deployments[1].context = 1000;
  house.table.deployments[2].context = 8000;
  auto& router = house.open();
  Sink sink;
  const RouteHints hints{.prompt_tokens = 2000};
  for (int i = 0; i < 5; ++i) EXPECT_EQ((*router.route(ask(), hints, sink))->trace().tries.back().deployment, "c");
  const auto refused = router.route(ask(), {.prompt_tokens = 9000}, sink);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().over_context);
  // Of one that says itself that it is too small, smaller ones are not asked.
  house[1].refusal = engine::Generator::Refusal{.error = {Code::invalid, "too long"}, .over_context = true};
  house[2].refusal = house[1].refusal;
  house[0].started = 0;
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(router.route(ask("x"), {.prompt_tokens = 500}, sink));
  EXPECT_EQ(house[0].started, 0);
}

TEST(Router, MarkedDataNeverLeavesTheDeploymentsThatMayHaveIt) {
  House house(1);
  house.table.groups = {{.name = "g", .fallbacks = {{Cause::error, {"cloud"}}, {Cause::policy, {"cloud"}}}},
                        {.name = "cloud"}};
  house.table.deployments[0].data_classes = {"sensitive"};
  house.add("public", "cloud");
  house.add("more", "g");
  house.options.fleet.outliers.consecutive = 0;
  auto& router = house.open();
  const RouteHints marked{.data_classes = {"sensitive"}};
  Sink sink;
  for (int i = 0; i < 20; ++i) {
    auto ticket = router.route(ask(), marked, sink);
    ASSERT_TRUE(ticket);
    house[0].last().fail(Code::io);
    router.turn();
    house.now += 20s;
  }
  ASSERT_TRUE(router.force("a", Breaker::Mode::forced_open));
  EXPECT_FALSE(router.route(ask(), marked, sink));
  EXPECT_EQ(house[1].started, 0);
  EXPECT_EQ(house[2].started, 0);
  EXPECT_TRUE(router.route(ask(), {}, sink)) << "what is not marked may go there";
  EXPECT_EQ(router.route(ask("x", "cloud"), marked, sink).error().error.code, Code::forbidden);
  EXPECT_EQ(house[1].started + house[2].started, 1);
}

TEST(Router, ADetectorsHookMarksWhatNobodyMarked) {
  House house(2);
  house.table.deployments[1].data_classes = {"sensitive"};
  house.options.hints = [](const engine::Request& request) {
    RouteHints hints;
    if (std::get<std::string>(request.prompt.input).find("id card") != std::string::npos)
      hints.data_classes = {"sensitive"};
    return hints;
  };
  engine::Generator& router = house.open();
  Sink sink;
  std::vector<std::unique_ptr<engine::Ticket>> tickets;
  for (int i = 0; i < 6; ++i) tickets.push_back(*router.start(ask("my id card is 1"), sink));
  EXPECT_EQ(house[0].started, 0);
  EXPECT_EQ(house[1].started, 6);
}

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

TEST(Router, OutstandingTokensReturnToNothing) {
  House house(2);
  auto& router = house.open();
  std::mt19937 random{3};
  std::vector<std::pair<std::unique_ptr<Sink>, std::unique_ptr<RouteTicket>>> open;
  for (int i = 0; i < 2000; ++i) {
    auto sink = std::make_unique<Sink>();
    if (auto ticket = router.route(ask(std::string(random() % 300, 'x')), {}, *sink))
      open.emplace_back(std::move(sink), std::move(*ticket));
    for (int j = 0; j < 2; ++j) {
      auto& calls = house[static_cast<std::size_t>(j)].calls;
      std::erase_if(calls, [](const auto& call) { return call->dropped; });
      if (calls.empty()) continue;
      auto& call = *calls[random() % calls.size()];
      const auto what = random() % 8;
      if (what == 0) call.fail(Code::io);
      if (what == 1) call.start();
      if (what == 2 || what == 3) call.text("x");
      if (what == 4) call.finish();
    }
    if (!open.empty() && random() % 3 == 0) open.erase(open.begin() + static_cast<long>(random() % open.size()));
    house.now += 10ms;
    router.turn();
  }
  open.clear();
  router.turn();
  for (const Json& each : router.state()) {
    EXPECT_EQ(each["outstanding_tokens"], 0);
    EXPECT_EQ(each["running"], 0);
  }
}

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

TEST(Router, WhatIsUnderWayFailsWhenItEnds) {
  House house;
  house.open();
  Sink sink;
  auto ticket = house.router->route(ask(), {}, sink);
  house[0].last().start();
  house.router.reset();
  ASSERT_TRUE(sink.error);
  EXPECT_EQ(sink.error->code, Code::unavailable);
  EXPECT_EQ(house[0].alive(), 0);
  ticket->reset();
}

// A deployment with a thread of its own, which answers, fails, hangs and refuses as its seed says.
class Restless final : public engine::Generator {
 public:
  explicit Restless(unsigned seed) : random_(seed), thread_([this](const std::stop_token& stop) { work(stop); }) {}
  ~Restless() override { thread_.request_stop(); }
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request, engine::Sink& sink) override {
    auto job = std::make_shared<Job>();
    const std::lock_guard lock(mutex_);
    if (random_() % 10 == 0) return std::unexpected(Refusal{.error = {Code::unavailable, "full"}});
    job->sink = &sink;
    jobs_.push_back(job);
    return std::make_unique<Ticket>(job);
  }
  std::vector<engine::ModelCard> models() const override { return {}; }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt&, bool) const override {
    return engine::Tokenized{};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }

 private:
  struct Job {
    std::mutex mutex;  // not recursive: a ticket that dies inside its own call would hang
    engine::Sink* sink = nullptr;
    int step = 0;
  };
  struct Ticket final : engine::Ticket {
    explicit Ticket(std::shared_ptr<Job> which) : job(std::move(which)) {}
    ~Ticket() override {
      const std::lock_guard lock(job->mutex);
      job->sink = nullptr;
    }
    std::shared_ptr<Job> job;
  };
  void work(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::shared_ptr<Job> job;
      unsigned dice = 0;
      {
        const std::lock_guard lock(mutex_);
        dice = random_();
        if (!jobs_.empty()) job = jobs_[dice % jobs_.size()];
      }
      if (!job) {
        std::this_thread::yield();
        continue;
      }
      if (!step(*job, dice / 64)) {
        const std::lock_guard lock(mutex_);
        std::erase(jobs_, job);
      }
    }
  }
  static bool step(Job& job, unsigned dice) {
    const std::lock_guard lock(job.mutex);
    if (job.sink == nullptr) return false;
    const bool fails = dice % 16 == 0;
    if (fails) job.sink->on(engine::Failed{.error = {Code::io, "gone"}});
    if (fails) return job.sink = nullptr, false;
    switch (job.step++) {
      case 0:
        job.sink->on(engine::Started{});
        return true;
      case 1:
      case 2:
        job.sink->on(engine::Text{.text = "x", .ids = {1}});
        return true;
      case 3:
        job.sink->on(engine::ChoiceEnd{});
        return true;
      default:
        job.sink->on(engine::Finished{});
        job.sink = nullptr;
        return false;
    }
  }

  std::mutex mutex_;
  std::mt19937 random_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::jthread thread_;
};

// What one client saw; several threads may hold it against the contract.
class Watch final : public engine::Sink {
 public:
  void on(engine::Event event) override {
    if (dead || over) ++wrong;
    if (std::holds_alternative<engine::Started>(event) && began++ > 0) ++wrong;
    over = over || std::holds_alternative<engine::Finished>(event) || std::holds_alternative<engine::Failed>(event);
    if (!drop_inside) return;
    // The ticket is here once start() has returned it.
    while (!has_ticket) std::this_thread::yield();
    dead = true;
    ticket.reset();
    gone = true;
  }
  std::atomic<bool> dead = false, over = false;
  std::atomic<int> began = 0, wrong = 0;
  bool drop_inside = false;
  std::unique_ptr<RouteTicket> ticket;
  std::atomic<bool> has_ticket = false, gone = false;
};

TEST(RouterThreads, ManyStartAndLeaveWhileDeploymentsComeAndGo) {
  RouterOptions options;
  options.cache.most_bytes = 1 << 16;
  options.first_token = 50ms;
  options.poll = 1ms;
  options.fleet.concurrency = {.settle = 1ms, .window = 2ms, .rest = 5ms};
  std::atomic<int> told = 0;
  options.on_done = [&](const RouteTrace& trace) { told += trace.json().empty() ? 0 : 1; };
  RouteTable table;
  table.groups = {{.name = "g", .sticky = true}};
  for (unsigned i = 0; i < 3; ++i)
    table.deployments.push_back({.name = std::string(1, static_cast<char>('a' + i)),
                                 .group = "g",
                                 .generator = std::make_shared<Restless>(i),
                                 .max_concurrent = 4,
                                 .adaptive = true});
  auto router = std::move(*Router::create(options, table));
  table.deployments.clear();
  std::atomic<int> wrong = 0, answered = 0;
  {
    std::vector<std::jthread> clients;
    for (unsigned c = 0; c < 4; ++c)
      clients.emplace_back([&, c] {
        std::mt19937 random{c};
        for (int i = 0; i < 150; ++i) {
          Watch watch;
          auto request = ask("question " + std::to_string(random() % 8));
          if (random() % 2 == 0) request.sampling.temperature = 0;
          auto ticket = router->route(std::move(request), {.session = std::to_string(random() % 4)}, watch);
          if (!ticket) continue;
          const auto patience = random() % 3 == 0 ? random() % 200 : 100'000;
          for (unsigned spin = 0; spin < patience && !watch.over; ++spin) std::this_thread::yield();
          (void)(*ticket)->trace();
          ticket->reset();
          watch.dead = true;
          wrong += watch.wrong;
          answered += watch.over ? 1 : 0;
        }
      });
    std::jthread operators([&](const std::stop_token& stop) {
      for (unsigned i = 0; !stop.stop_requested(); ++i) {
        (void)router->add({.name = "d", .group = "g", .generator = std::make_shared<Restless>(i)});
        (void)router->state();
        (void)router->load();
        (void)router->remove("d");
        (void)router->force("a", i % 2 == 0 ? Breaker::Mode::forced_open : Breaker::Mode::automatic);
        std::this_thread::yield();
      }
    });
    clients.clear();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(answered, 50);
  EXPECT_GT(told, 50);
}

TEST(RouterThreads, TicketsDieInsideTheirOwnSinksOnAGeneratorThatCouldNotBearIt) {
  RouterOptions options;
  RouteTable table;
  table.groups = {{.name = "g"}};
  table.deployments.push_back({.name = "a", .group = "g", .generator = std::make_shared<Restless>(1U)});
  auto router = std::move(*Router::create(options, std::move(table)));
  int wrong = 0;
  for (int i = 0; i < 200; ++i) {
    Watch watch;
    watch.drop_inside = true;
    auto ticket = router->route(ask(), {}, watch);
    if (!ticket) continue;
    watch.ticket = std::move(*ticket);
    watch.has_ticket = true;
    while (!watch.gone) std::this_thread::yield();
    wrong += watch.wrong;
  }
  EXPECT_EQ(wrong, 0);
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
