#include "gateway/rollout/graders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/json_full.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

struct Court {
  TimePoint now{1'000'000s};
  fake::Generator judge;
  std::vector<std::pair<bool, double>> scores;
  Graders graders{{.scored = [this](const GradedSide& side, double score) { scores.emplace_back(side.canary, score); },
                   .now = [this] { return now; },
                   .own_thread = false}};
  RolloutPlan plan{.to = "new", .judge = JudgePlan{.model = "judge", .share = 1}};

  Court() { graders.use(&judge); }
  static engine::Request request() { return fake::ask("What is an ashlar?"); }
  std::shared_ptr<Tap> tap(const engine::Request& of = request(), double draw = 0, double share = 0.5) {
    return graders.tap(plan, "g", "v", share, draw, of);
  }
  // An answer of `deployment` from beginning to end.
  void answer(const std::string& deployment, const std::string& text = "A stone.", bool good = true) {
    const auto follows = tap();
    ASSERT_NE(follows, nullptr);
    follows->said(engine::Text{.text = text});
    follows->first(deployment, good);
    follows->said(engine::Finished{});
    graders.turn();
  }
  std::string prompt() { return (*std::get<engine::Chat>(judge.last().request.prompt.input).messages)[0]["content"]; }
  void say(const std::string& words) {
    judge.last().answer(words);
    graders.turn();
  }
};

TEST(Graders, AskOnceTheAnswerIsWholeAndTellTheScore) {
  Court court;
  const auto follows = court.tap();
  follows->said(engine::Text{.text = "A squared "});
  follows->first("new", true);
  court.graders.turn();
  EXPECT_EQ(court.judge.started, 0) << "the answer is not whole";
  follows->said(engine::Text{.text = "stone."});
  follows->said(engine::Finished{});
  EXPECT_EQ(court.judge.started, 0) << "not on the client's thread";
  court.graders.turn();
  ASSERT_EQ(court.judge.started, 1);
  const engine::Request& asked = court.judge.last().request;
  EXPECT_EQ(asked.model, "judge");
  EXPECT_EQ(asked.sender.user, kJudgeUser);
  EXPECT_EQ(asked.sampling.temperature, 0);
  EXPECT_GT(asked.priority, 0);
  EXPECT_EQ(asked.stopping.max_tokens, 256);
  EXPECT_THAT(court.prompt(), HasSubstr("What is an ashlar?"));
  EXPECT_THAT(court.prompt(), HasSubstr("A squared stone."));
  court.say("Score: 0.9");
  EXPECT_EQ(court.scores, (std::vector<std::pair<bool, double>>{{true, 0.9}}));
  court.answer("old");
  court.say("0.5");
  EXPECT_EQ(court.scores.back(), std::pair(false, 0.5));
  EXPECT_EQ(court.graders.figures("g")["scored"], 2);
}

TEST(Graders, SomeAnswersAreNotJudged) {
  Court court;
  court.answer("new", "half", /*good=*/false);
  EXPECT_EQ(court.judge.started, 0) << "another answered";
  const auto calls = court.tap();
  calls->said(engine::ToolCall{});
  calls->first("new", true);
  calls->said(engine::Finished{});
  const auto left = court.tap();
  left->said(engine::Text{.text = "gone"});
  left->first("new", true);
  court.graders.turn();
  EXPECT_EQ(court.judge.started, 0) << "calls of tools, and answers whose client left";
  engine::Request marked = Court::request();
  marked.sender.data_classes = {"sensitive"};
  EXPECT_EQ(court.tap(marked), nullptr);
  court.plan.judge->data_classes = {"sensitive"};
  EXPECT_NE(court.tap(marked), nullptr);
  engine::Request own = Court::request();
  own.id = "judge-1";
  EXPECT_EQ(court.tap(own), nullptr) << "a judge is not judged";
  court.plan.judge->share = 0.1;
  EXPECT_EQ(court.tap(Court::request(), 0.2), nullptr);
  EXPECT_NE(court.tap(Court::request(), 0.05), nullptr);
  const auto stable = court.tap(Court::request(), 0.05, /*share=*/0.1);  // one in nine of a tenth
  stable->first("old", true);
  stable->said(engine::Finished{});
  court.graders.turn();
  EXPECT_EQ(court.judge.started, 0) << "of the stable one's as many as of the other's";
}

TEST(Graders, KeepToTheirLimits) {
  Court court;
  court.plan.judge->concurrency = 2;
  court.plan.judge->most_per_hour = 3;
  for (int i = 0; i < 4; ++i) court.answer("new");
  EXPECT_EQ(court.judge.alive(), 2) << "two at once";
  for (int i = 0; i < 4; ++i) {
    for (const auto& call : std::vector(court.judge.calls))
      if (!call->dropped) call->answer("0.5");
    court.graders.turn();
  }
  EXPECT_EQ(court.judge.started, 3) << "three in an hour";
  EXPECT_EQ(court.graders.figures("g")["dropped"], 1);
  court.now += 1h;
  court.answer("new");
  EXPECT_EQ(court.judge.started, 4);
  for (int i = 0; i < 500; ++i) court.answer("new");
  EXPECT_GT(court.graders.figures("g")["dropped"], 250) << "not all may wait";
}

TEST(Graders, JudgesThatFailOrMumbleAreCounted) {
  Court court;
  court.answer("new");
  court.say("It is a fine answer.");
  court.answer("new");
  court.judge.last().fail(Code::exhausted);
  court.graders.turn();
  court.judge.refusal = engine::Generator::Refusal{.error = {Code::exhausted, "The budget is used up."}};
  court.answer("new");
  court.judge.refusal.reset();
  court.answer("new");
  court.now += 10min;
  court.graders.turn();
  EXPECT_EQ(court.judge.alive(), 0) << "one that is late is dropped";
  const Json figures = court.graders.figures("g");
  EXPECT_EQ(figures["unclear"], 1);
  EXPECT_EQ(figures["failed"], 3);
  EXPECT_TRUE(court.scores.empty());
}

TEST(Graders, NobodyIsAskedOnceTheirGeneratorIsGone) {
  Court court;
  court.answer("new");
  const auto follows = court.tap();
  court.graders.use(nullptr);
  EXPECT_EQ(court.judge.alive(), 0);
  follows->first("new", true);
  follows->said(engine::Finished{});
  court.graders.turn();
  EXPECT_EQ(court.judge.started, 1);
  EXPECT_EQ(court.tap(), nullptr);
}

// --- with the rollouts

struct Trial {
  std::unique_ptr<Rollouts> rollouts = std::move(*Rollouts::open({.own_thread = false, .seed = 3}));
  Trial(std::optional<JudgePlan> judge = {}) {
    RolloutPlan plan{.to = "new", .steps = {0.5, 1}};
    plan.gates.score = 0.05;
    plan.judge = std::move(judge);
    rollouts->set_groups({{.name = "g", .rollout = plan}});
  }
  void ended(const std::string& deployment, const std::string& answer, const std::string& key = "k") {
    engine::Request request = fake::ask();
    request.sender.key = key;
    request.delivery = std::make_shared<engine::Delivery>();
    request.delivery->name = answer;
    const std::string group = "g";
    rollouts->ended({.group = group, .deployment = deployment, .request = request, .how = AttemptEnd::How::good});
  }
  Json show() { return rollouts->show("g").value_or(Json()); }
};

TEST(Rollouts, AnAnswerIsScoredByWhatItsClientCallsIt) {
  Trial trial;
  trial.ended("new", "chatcmpl-1");
  trial.ended("old", "chatcmpl-2");
  EXPECT_TRUE(trial.rollouts->score_answer("g", "chatcmpl-1", 0.25));
  EXPECT_TRUE(trial.rollouts->score_answer("g", "chatcmpl-2", 0.75));
  EXPECT_EQ(trial.rollouts->score_answer("g", "chatcmpl-2", 0.75).error().code, Code::invalid) << "once";
  EXPECT_EQ(trial.rollouts->score_answer("g", "chatcmpl-3", 0.75).error().code, Code::not_found);
  EXPECT_EQ(trial.rollouts->score_answer("h", "chatcmpl-1", 0.75).error().code, Code::not_found);
  EXPECT_EQ(trial.rollouts->score_answer("g", "chatcmpl-1", 2).error().code, Code::invalid);
  EXPECT_EQ(trial.show()["canary"]["score"]["count"], 1) << dump_json(trial.show());
}

TEST(Rollouts, AClientScoresItsOwnAnswersOnce) {
  Trial trial;
  trial.ended("new", "chatcmpl-1", "mine");
  EXPECT_FALSE(*trial.rollouts->feedback("chatcmpl-1", 0.1, "t", {.key = "another's"}));
  EXPECT_FALSE(*trial.rollouts->feedback("chatcmpl-1", 0.1, "another tenant", {.key = "mine"}));
  EXPECT_TRUE(*trial.rollouts->feedback("chatcmpl-1", 0.1, "t", {.key = "mine"}));
  EXPECT_FALSE(*trial.rollouts->feedback("chatcmpl-1", 0.1, "t", {.key = "mine"})) << "once";
  EXPECT_FALSE(*trial.rollouts->feedback("unknown", 0.1, "t", {.key = "mine"}));
  EXPECT_FALSE(trial.rollouts->feedback("chatcmpl-1", -1, "t", {.key = "mine"}));
  EXPECT_TRUE(trial.rollouts->score_answer("g", "chatcmpl-1", 0.2)) << "a judge may, beside the client";
}

TEST(Rollouts, AJudgesWordRollsBackWhatIsWorse) {
  fake::Generator judge;
  judge.on_start = [](auto& call) {
    const std::string asked = (*std::get<engine::Chat>(call.request.prompt.input).messages)[0]["content"];
    call.answer(asked.contains("nonsense") ? "0.2" : "0.9");
  };
  Trial trial(JudgePlan{.model = "judge", .share = 1});
  trial.rollouts->graders().use(&judge);
  for (int i = 0; i < 200 && trial.show()["state"] == "running"; ++i)
    for (const bool canary : {true, false}) {
      const auto tap = trial.rollouts->tap("g", fake::ask("What?"));
      if (tap == nullptr) continue;
      tap->said(engine::Text{.text = canary ? "nonsense" : "sense"});
      tap->first(canary ? "new" : "old", true);
      tap->said(engine::Finished{});
      trial.rollouts->graders().turn();
    }
  const Json shown = trial.show();
  EXPECT_EQ(shown["state"], "rolled_back") << dump_json(shown);
  EXPECT_THAT(shown["why"].get<std::string>(), HasSubstr("score"));
  EXPECT_GT(shown["judge"]["scored"], 20);
  EXPECT_EQ(shown["judge"]["model"], "judge");
}

TEST(Rollouts, JudgesMayBeAskedFromManyThreadsAtOnce) {
  fake::Generator judge;
  auto rollouts = std::move(*Rollouts::open({.seed = 3}));
  RolloutPlan plan{.to = "new", .steps = {0.5, 1}};
  plan.gates.score = 0.5;
  plan.judge = JudgePlan{.model = "judge", .share = 1, .concurrency = 4};
  rollouts->set_groups({{.name = "g", .rollout = plan}});
  judge.on_start = [](auto& call) { call.answer("0.5"); };
  rollouts->graders().use(&judge);
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        const auto tap = rollouts->tap("g", fake::ask("What?"));
        if (tap == nullptr) continue;
        tap->said(engine::Text{.text = "this"});
        tap->first(i % 2 == 0 ? "new" : "old", true);
        tap->said(engine::Finished{});
      }
    });
  threads.clear();
  rollouts->graders().use(nullptr);
  EXPECT_EQ(judge.alive(), 0);
}

}  // namespace
}  // namespace ashlar::gateway
