#include "gateway/rollout/shadow.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/json_full.h"
#include "gateway/rollout/answer_diff.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;

TEST(AnswerDiff, CountsWordsThatDiffer) {
  EXPECT_DOUBLE_EQ(diff_answers("", "").agreement, 1);
  EXPECT_DOUBLE_EQ(diff_answers("one two", "one  two").agreement, 1);
  EXPECT_DOUBLE_EQ(diff_answers("one two three four", "one two tree four").agreement, 0.75);
  EXPECT_DOUBLE_EQ(diff_answers("one two three four", "one two tree four").prefix, 0.5);
  EXPECT_DOUBLE_EQ(diff_answers("a b c", "b c").agreement, 1 - 1.0 / 3);
  EXPECT_DOUBLE_EQ(diff_answers("a b c", "b c").prefix, 0);
  EXPECT_DOUBLE_EQ(diff_answers("yes", "").agreement, 0);
  EXPECT_DOUBLE_EQ(diff_answers("你好世界", "你好世人").agreement, 0.75);
  EXPECT_DOUBLE_EQ(diff_answers("Привет мир", "Привет, мир").agreement, 1 - 1.0 / 3);
  EXPECT_NO_FATAL_FAILURE(diff_answers("\xff\xe4\xbd", "\xf0"));
  const std::string long_one(100'000, 'x'), many = [] {
    std::string out;
    for (int i = 0; i < 50'000; ++i) out += "a b ";
    return out;
  }();
  EXPECT_DOUBLE_EQ(diff_answers(long_one, many).agreement, 0);
}

// A route "g" of one deployment, and a shadow.
struct Theatre : fake::House {
  std::shared_ptr<fake::Generator> behind = std::make_shared<fake::Generator>();
  std::unique_ptr<Shadows> shadows;
  std::unique_ptr<Rollouts> rollouts;
  fake::Sink sink;

  explicit Theatre(ShadowPlan plan) : House(1) {
    plan.to = "m2";
    shadows = std::make_unique<Shadows>(
        ShadowOptions{.models = behind.get(), .now = [this] { return now; }, .own_thread = false});
    auto made = Rollouts::open({.now = [this] { return now; }, .own_thread = false, .shadows = shadows.get()});
    rollouts = std::move(*made);
    options.steering = rollouts.get();
    table.groups.front().shadow = plan;
    open();
  }
  ~Theatre() { router.reset(); }
  fake::Generator& front() { return *generators.front(); }
  Json report() { return shadows->report("g").value_or(Json()); }
};

TEST(Shadow, FollowsOnceTheClientsOwnHasStarted) {
  Theatre theatre({.keep_texts = true});
  auto request = fake::ask("What is it?");
  request.sampling.temperature = 0;
  request.notes = std::make_shared<engine::Notes>();
  auto ticket = theatre.router->start(request, theatre.sink);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_EQ(theatre.behind->started, 0) << "not on the client's thread";
  theatre.shadows->turn();
  ASSERT_EQ(theatre.behind->started, 1);
  const engine::Request copy = theatre.behind->last().request;
  EXPECT_EQ(copy.model, "m2");
  EXPECT_GT(copy.priority, request.priority);
  EXPECT_EQ(copy.notes, nullptr);
  theatre.front().last().answer("It is a stone.");
  EXPECT_EQ(theatre.sink.words, "It is a stone.");
  EXPECT_EQ(theatre.report()["answered"], 0);
  theatre.now += 2s;
  theatre.behind->last().answer("It is a tree.");
  theatre.shadows->turn();
  const Json report = theatre.report();
  EXPECT_EQ(report["answered"], 1);
  EXPECT_EQ(report["compared"]["same_text"], 0);
  EXPECT_EQ(report["compared"]["same_finish_reason"], 1);
  EXPECT_DOUBLE_EQ(report["compared"]["agreement"], 0.8);
  EXPECT_EQ(report["compared"]["at_temperature_0"]["answers"], 1);
  EXPECT_NEAR(report["shadow"]["ttft_seconds"]["p50"].get<double>(), 2, 0.1);
  EXPECT_EQ(report["shadow_tokens"]["prompt"], 7);
  ASSERT_EQ(report["examples"].size(), 1u);
  EXPECT_EQ(report["examples"][0]["shadow"]["text"], "It is a tree.");
  EXPECT_EQ(theatre.behind->alive(), 0);
  EXPECT_EQ(report["under_way"], 0);
}

TEST(Shadow, KeepsNoTextsUnlessAsked) {
  Theatre theatre({});
  auto ticket = theatre.router->start(fake::ask("a secret"), theatre.sink);
  theatre.shadows->turn();
  theatre.front().last().answer("another secret");
  theatre.behind->last().answer("a third secret");
  theatre.shadows->turn();
  EXPECT_EQ(theatre.report()["compared"]["answers"], 1);
  EXPECT_EQ(theatre.report().dump().find("secret"), std::string::npos);
}

TEST(Shadow, ItsFailuresAreItsOwn) {
  Theatre theatre({});
  theatre.behind->refusal = fake::Generator::Refusal{.error = {Code::io, "down"}};
  auto ticket = theatre.router->start(fake::ask(), theatre.sink);
  theatre.shadows->turn();
  theatre.front().last().answer("fine");
  theatre.shadows->turn();
  EXPECT_EQ(theatre.sink.words, "fine");
  EXPECT_EQ(theatre.report()["failures"]["shadow_alone"], 1);
  theatre.behind->refusal.reset();
  fake::Sink second;
  auto other = theatre.router->start(fake::ask(), second);
  theatre.shadows->turn();
  theatre.front().last().answer("fine");
  theatre.now += 3min;  // it hangs
  theatre.shadows->turn();
  EXPECT_EQ(theatre.report()["failures"]["shadow_alone"], 2);
  EXPECT_EQ(theatre.behind->alive(), 0);
}

TEST(Shadow, TakesNoMoreThanItMay) {
  Theatre theatre({.concurrency = 2});
  std::vector<std::unique_ptr<engine::Ticket>> tickets;
  std::vector<fake::Sink> sinks(5);
  for (auto& sink : sinks) tickets.push_back(*theatre.router->start(fake::ask(), sink));
  theatre.shadows->turn();
  EXPECT_EQ(theatre.behind->started, 2);
  EXPECT_EQ(theatre.report()["dropped"]["busy"], 3);
  for (const auto& call : theatre.front().calls) call->answer("x");
  for (const auto& call : theatre.behind->calls) call->answer("x");
  theatre.shadows->turn();
  EXPECT_EQ(theatre.report()["answered"], 2);
  EXPECT_EQ(theatre.report()["compared"]["same_text"], 2);
  fake::Sink again;
  auto ticket = theatre.router->start(fake::ask(), again);
  theatre.shadows->turn();
  EXPECT_EQ(theatre.behind->started, 3);
}

TEST(Shadow, EndsWhenTheClientLeaves) {
  Theatre theatre({});
  auto ticket = theatre.router->start(fake::ask(), theatre.sink);
  theatre.shadows->turn();
  EXPECT_EQ(theatre.behind->alive(), 1);
  ticket->reset();
  theatre.shadows->turn();
  EXPECT_EQ(theatre.behind->alive(), 0);
  EXPECT_EQ(theatre.report()["dropped"]["client_left"], 1);
}

TEST(Shadow, SeesNoMarkedDataThatItMayNot) {
  for (const bool may : {false, true}) {
    ShadowPlan plan;
    if (may) plan.data_classes = {"sensitive"};
    Theatre theatre(plan);
    auto request = fake::ask();
    request.sender.data_classes = {"sensitive"};
    auto ticket = theatre.router->start(request, theatre.sink);
    theatre.shadows->turn();
    EXPECT_EQ(theatre.behind->started, may ? 1 : 0);
    EXPECT_EQ(theatre.report()["dropped"]["data_class"], may ? 0 : 1);
  }
}

TEST(Shadow, GetsItsShareOfTheRequests) {
  Theatre theatre({.share = 0.1, .concurrency = 1000});
  theatre.front().on_start = [](auto& call) { call.answer("x"); };
  theatre.behind->on_start = [](auto& call) { call.answer("x"); };
  for (int i = 0; i < 1000; ++i) {
    fake::Sink sink;
    auto ticket = theatre.router->start(fake::ask(), sink);
    theatre.shadows->turn();
  }
  EXPECT_NEAR(theatre.behind->started, 100, 45);
  EXPECT_EQ(theatre.report()["requests"], 1000);
}

TEST(Shadow, IsDroppedWhenTheServerEnds) {
  Theatre theatre({});
  auto ticket = theatre.router->start(fake::ask(), theatre.sink);
  theatre.shadows->turn();
  ASSERT_EQ(theatre.behind->alive(), 1);
  theatre.router.reset();
  theatre.rollouts.reset();
  theatre.shadows.reset();
  EXPECT_EQ(theatre.behind->alive(), 0);
  ticket->reset();
}

TEST(Shadow, RunsOnItsOwnThread) {
  fake::Generator behind;
  behind.on_start = [](auto& call) { call.answer("same"); };
  Shadows shadows({.models = &behind});
  shadows.set_groups({{.name = "g", .shadow = ShadowPlan{.to = "m2", .concurrency = 100}}});
  for (int i = 0; i < 100; ++i) {
    auto tap = shadows.tap("g", fake::ask());
    tap->started();
    tap->said(engine::Text{.text = "same"});
    tap->said(engine::ChoiceEnd{});
    tap->said(engine::Finished{});
    tap.reset();
    while (shadows.report("g").value_or(Json())["answered"] != i + 1) std::this_thread::yield();
  }
  EXPECT_EQ(shadows.report("g").value_or(Json())["compared"]["same_text"], 100);
  EXPECT_FALSE(shadows.report("h").has_value());
}

}  // namespace
}  // namespace ashlar::gateway
