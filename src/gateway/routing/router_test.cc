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

TEST(Router, ThoughtsCallsAndMembersPassAsTextDoes) {
  House house;
  auto& router = house.open();
  Sink sink;
  auto ticket = router.route(ask(), {}, sink);
  const auto json = std::make_shared<const Json>(Json{{"a", 1}});
  auto& call = house[0].last();
  call.start();
  call.say(engine::Reasoning{.text = "hm"});
  call.say(engine::ToolCall{.id = "c", .name = "f", .arguments = "{}"});
  call.say(engine::Members{.json = json});
  call.say(engine::ChoiceEnd{});
  call.say(engine::Members{.json = json, .of = engine::Members::Of::choice});
  call.say(engine::Finished{});
  EXPECT_FALSE(sink.error);
  EXPECT_EQ(sink.events.size(), 7U);
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

}  // namespace
}  // namespace ashlar::gateway
