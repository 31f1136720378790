#include "gateway/rollout/rollouts.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "base/json_full.h"
#include "gateway/routing/fakes_for_test.h"
#include "store/databases_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using How = AttemptEnd::How;

class Log final : public EventLog {
 public:
  void write(OperatorEvent event) override {
    const std::lock_guard lock(mutex);
    events.push_back(std::move(event));
  }
  const OperatorEvent* find(std::string_view kind) const {
    for (const auto& event : events)
      if (event.kind == kind) return &event;
    return nullptr;
  }
  std::mutex mutex;
  std::vector<OperatorEvent> events;
};

// A route "g" whose stable deployment is "g/old" and whose trial is "g/new".
Group group_of(RolloutPlan plan) {
  plan.to = "g/new";
  return {.name = "g", .rollout = std::move(plan)};
}

RolloutPlan quick() {
  RolloutPlan plan;
  plan.hold = 60s;
  return plan;
}

// What a version does: how often it fails, and how fast it is.
struct Version {
  double errors = 0.01;
  double first_token = 0.2,
         between_tokens = 0.02;  // seconds; each answer's is up to a fifth off, and now and then four times that
};

// Requests at a steady pace, each answered at once, in simulated time.
struct Street {
  TimePoint now{1'000'000s};
  Log log;
  std::unique_ptr<Rollouts> rollouts;
  std::mt19937_64 draws;
  Version stable, canary;
  int asked = 0, on_canary = 0;
  engine::Request request;

  explicit Street(std::uint64_t seed = 1, store::Database* database = nullptr) : draws(seed) { open(database); }
  void open(store::Database* database) {
    rollouts.reset();
    auto made = Rollouts::open({.now = [this] { return now; },
                                .utc_ms = [this] { return now.time_since_epoch() / 1ms; },
                                .own_thread = false,
                                .events = &log,
                                .database = database,
                                .seed = draws()});
    ASSERT_TRUE(made.has_value()) << made.error().message;
    rollouts = std::move(*made);
  }
  double draw() { return std::uniform_real_distribution<double>(0, 1)(draws); }
  double about(double seconds) { return seconds * (0.8 + 0.4 * draw()) * (draw() < 0.02 ? 4 : 1); }
  void ask() {
    const auto split = rollouts->split("g", request);
    const bool chosen = split && split->chosen;
    const Version& version = chosen ? canary : stable;
    ++asked;
    on_canary += chosen ? 1 : 0;
    static const std::string kGroup = "g", kNew = "g/new", kOld = "g/old";
    const bool good = draw() >= version.errors;
    AttemptEnd end{
        .group = kGroup, .deployment = chosen ? kNew : kOld, .request = request, .how = good ? How::good : How::fault};
    if (good) {
      end.first_token = std::chrono::nanoseconds(static_cast<std::int64_t>(about(version.first_token) * 1e9));
      end.seconds_per_token = about(version.between_tokens);
    }
    rollouts->ended(end);
  }
  // `each_second` requests, for so long or until the rollout is over.
  void drive(std::chrono::seconds time, int each_second = 50) {
    for (const TimePoint until = now + time; now < until && (state() == "running" || state() == "paused"); now += 1s) {
      for (int i = 0; i < each_second; ++i) ask();
      rollouts->turn();
    }
  }
  Json show() { return rollouts->show("g").value_or(Json()); }
  std::string state() { return rollouts->list()[0]["state"]; }
};

TEST(Rollouts, OneThatFailsAFifthOfItsRequestsIsRolledBackInItsFirstStep) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Street street(seed);
    street.canary.errors = 0.2;
    street.rollouts->set_groups({group_of(quick())});
    street.drive(1h);
    ASSERT_EQ(street.state(), "rolled_back");
    ASSERT_EQ(street.show()["step"], 1);
    // 1 % of the requests, and the chance of the draw.
    ASSERT_LE(street.on_canary, 0.01 * street.asked + 4 * std::sqrt(0.01 * street.asked) + 1);
    ASSERT_LE(street.on_canary, 250);
    const OperatorEvent* event = street.log.find("rollout.rolled_back");
    ASSERT_NE(event, nullptr);
    EXPECT_EQ(event->severity, Severity::error);
    EXPECT_NE(event->message.find("error_rate"), std::string::npos);
    EXPECT_GT(event->details["canary"]["errors"], 2);
    // Nobody goes there any more.
    for (int i = 0; i < 1000; ++i) ASSERT_FALSE(street.rollouts->split("g", street.request)->chosen);
  }
}

TEST(Rollouts, OneThatIsSlowBetweenTokensIsRolledBack) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Street street(seed);
    street.canary.between_tokens = 0.04;  // twice
    street.rollouts->set_groups({group_of(quick())});
    street.drive(2h);
    ASSERT_EQ(street.state(), "rolled_back") << seed;
    ASSERT_EQ(street.show()["step"], 1);
    ASSERT_NE(street.show()["why"].get<std::string>().find("itl_p95"), std::string::npos);
  }
}

TEST(Rollouts, AGoodOneIsPromotedStepByStep) {
  Street street;
  street.rollouts->set_groups({group_of(quick())});
  EXPECT_DOUBLE_EQ(street.show()["share"], 0.01);
  street.drive(3h);
  EXPECT_EQ(street.state(), "promoted") << street.show().dump(1);
  int steps = 0;
  for (const auto& event : street.log.events) steps += event.kind == "rollout.step" ? 1 : 0;
  EXPECT_EQ(steps, 4);
  EXPECT_NE(street.log.find("rollout.started"), nullptr);
  EXPECT_NE(street.log.find("rollout.promoted"), nullptr);
  EXPECT_TRUE(street.rollouts->split("g", street.request)->chosen);
}

// The figures say so, and the bound that the bets are made by: 5 steps of 3 gates at 0.0005 each.
TEST(Rollouts, OneAsGoodAsTheStableOneIsHardlyEverRolledBackByChance) {
  int rolled_back = 0, promoted = 0;
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    Street street(seed);
    RolloutPlan plan = quick();
    plan.steps = {0.05, 0.25, 0.5, 1};
    plan.hold = 10s;
    street.rollouts->set_groups({group_of(plan)});
    street.drive(10min, 20);
    rolled_back += street.state() == "rolled_back" ? 1 : 0;
    promoted += street.state() == "promoted" ? 1 : 0;
  }
  EXPECT_LE(rolled_back, 10);
  EXPECT_GE(promoted, 900);
}

TEST(Rollouts, ThreeGoodOnesDoNotPromoteAndOneBadOfTenDoesNotRollBack) {
  Street street;
  RolloutPlan plan = quick();
  plan.steps = {0.5, 1};
  plan.hold = 0s;
  street.rollouts->set_groups({group_of(plan)});
  street.stable.errors = street.canary.errors = 0;
  while (street.on_canary < 9) street.ask();
  street.canary.errors = 1;
  while (street.on_canary < 10) street.ask();
  street.rollouts->turn();
  EXPECT_EQ(street.state(), "running");
  EXPECT_EQ(street.show()["step"], 1);
}

TEST(Rollouts, OneThatOnlyFailsIsRolledBackWithinAHandful) {
  Street street;
  RolloutPlan plan = quick();
  plan.steps = {0.05, 1};
  street.rollouts->set_groups({group_of(plan)});
  street.canary.errors = 1;
  street.drive(1h);
  EXPECT_EQ(street.state(), "rolled_back");
  EXPECT_LE(street.on_canary, 8);
}

TEST(Rollouts, BothFailingAlikeIsNotTheTrialsFault) {
  Street street;
  street.stable.errors = street.canary.errors = 0.4;
  RolloutPlan plan = quick();
  plan.steps = {0.25, 0.5};
  plan.promote = false;
  street.rollouts->set_groups({group_of(plan)});
  street.drive(1h);
  EXPECT_NE(street.state(), "rolled_back") << street.show()["why"];
}

TEST(Rollouts, ASenderStaysOnItsSideAsSharesGrow) {
  Street street;
  RolloutPlan plan = quick();
  plan.steps = {0.05, 0.25, 0.5};
  plan.hold = 0s;
  plan.promote = false;
  plan.minimum_requests = 1;
  std::set<std::string> before;
  for (const double share : plan.steps) {
    RolloutPlan at = plan;
    at.steps = {share};
    street.rollouts->set_groups({group_of(at)});
    std::set<std::string> in;
    for (int round = 0; round < 3; ++round)
      for (int i = 0; i < 2000; ++i) {
        engine::Request request;
        request.sender.user = "u" + std::to_string(i);
        request.sender.key = "k" + std::to_string(i % 7);
        const bool chosen = street.rollouts->split("g", request)->chosen;
        if (round == 0 && chosen) in.insert(request.sender.user);
        ASSERT_EQ(chosen, in.contains(request.sender.user)) << "share " << share;
      }
    EXPECT_NEAR(static_cast<double>(in.size()), 2000 * share, 4 * std::sqrt(2000 * share));
    for (const std::string& each : before) ASSERT_TRUE(in.contains(each)) << each;
    before = in;
  }
}

TEST(Rollouts, OneKeyForEverythingIsStillShared) {
  for (int key = 0; key < 20; ++key) {
    Street street;
    RolloutPlan plan = quick();
    plan.steps = {0.1};
    street.rollouts->set_groups({group_of(plan)});
    engine::Request request;
    request.sender.key = "key" + std::to_string(key);
    int chosen = 0;
    for (int i = 0; i < 20'000; ++i) chosen += street.rollouts->split("g", request)->chosen ? 1 : 0;
    EXPECT_NEAR(chosen, 2000, 200) << key;
  }
}

TEST(Rollouts, AClientThatIsAlwaysWrongDoesNotCondemnTheVersionThatItMeets) {
  Street street;
  RolloutPlan plan = quick();
  plan.steps = {0.25, 1};
  street.rollouts->set_groups({group_of(plan)});
  street.drive(10s);
  engine::Request wrong;
  do wrong.sender.user += "x";
  while (!street.rollouts->split("g", wrong)->chosen);
  const std::string group = "g", deployment = "g/new";
  for (int i = 0; i < 500; ++i)
    street.rollouts->ended({.group = group, .deployment = deployment, .request = wrong, .how = How::refused});
  EXPECT_EQ(street.state(), "running");
  // A version that refuses everybody is another matter.
  for (int i = 0; i < 500 && street.state() == "running"; ++i) {
    engine::Request other;
    other.sender.user = "v" + std::to_string(i);
    street.rollouts->ended({.group = group, .deployment = deployment, .request = other, .how = How::refused});
  }
  EXPECT_EQ(street.state(), "rolled_back");
}

TEST(Rollouts, AJudgesScoresHoldItBackAndRollItBack) {
  Street street;
  RolloutPlan plan = quick();
  plan.steps = {0.25, 0.5};
  plan.gates.score = 0.05;
  street.rollouts->set_groups({group_of(plan)});
  street.drive(5min);
  EXPECT_EQ(street.show()["step"], 1) << "nobody judged yet";
  EXPECT_FALSE(street.rollouts->score("g", true, 1.5).has_value());
  EXPECT_FALSE(street.rollouts->score("h", true, 0.5).has_value());
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(street.rollouts->score("g", false, 0.85 + 0.1 * street.draw()).has_value());
    if (street.state() == "running")
      ASSERT_TRUE(street.rollouts->score("g", true, 0.6 + 0.1 * street.draw()).has_value());
    if (street.state() == "rolled_back") break;
  }
  EXPECT_EQ(street.state(), "rolled_back");
}

TEST(Rollouts, CommandsDoWhatTheySay) {
  Street street;
  RolloutPlan plan = quick();
  plan.automatic = false;
  street.rollouts->set_groups({group_of(plan)});
  EXPECT_EQ(street.state(), "idle");
  EXPECT_FALSE(street.rollouts->split("g", street.request)->chosen);
  EXPECT_FALSE(street.rollouts->pause("g", "ann").has_value());
  EXPECT_EQ(street.rollouts->start("h", "ann").error().code, Code::not_found);
  ASSERT_TRUE(street.rollouts->start("g", "ann").has_value());
  EXPECT_EQ(street.log.find("rollout.started")->actor, "ann");
  ASSERT_TRUE(street.rollouts->pause("g", "ann").has_value());
  street.drive(1h);
  EXPECT_EQ(street.show()["step"], 1);
  street.canary.errors = 0.5;  // a pause is no truce
  street.drive(1h);
  EXPECT_EQ(street.state(), "rolled_back");
  ASSERT_TRUE(street.rollouts->start("g", "ann").has_value());
  EXPECT_EQ(street.state(), "running");
  ASSERT_TRUE(street.rollouts->rollback("g", "I do not like it", "ann").has_value());
  EXPECT_EQ(street.show()["why"], "I do not like it");
  EXPECT_FALSE(street.rollouts->resume("g", "ann").has_value());
  ASSERT_TRUE(street.rollouts->promote("g", "ann").has_value());
  EXPECT_DOUBLE_EQ(street.show()["share"], 1);
  EXPECT_EQ(street.rollouts->list().size(), 1u);
}

TEST(Rollouts, ARolledBackVersionStaysSoUntilThereIsAnother) {
  Street street;
  street.rollouts->set_groups({group_of(quick())});
  ASSERT_TRUE(street.rollouts->rollback("g", "bad", "ann").has_value());
  street.rollouts->set_groups({group_of(quick())});
  EXPECT_EQ(street.state(), "rolled_back");
  street.rollouts->set_groups({});
  EXPECT_FALSE(street.rollouts->show("g").has_value());
  street.rollouts->set_groups({group_of(quick())});
  EXPECT_EQ(street.state(), "rolled_back");
  RolloutPlan second = quick();
  second.version = "2";
  street.rollouts->set_groups({group_of(second)});
  EXPECT_EQ(street.state(), "running");
  street.rollouts->set_groups({group_of(quick())});
  EXPECT_EQ(street.state(), "rolled_back");
}

TEST(Rollouts, ARestartInTheMiddleGoesOnAtItsStep) {
  const store::FolderForTest folder;
  auto database = store::open_database(folder.path() + "/state.db");
  ASSERT_TRUE(database.has_value());
  Street street(1, database->get());
  RolloutPlan plan = quick();
  plan.steps = {0.25, 0.5, 1};
  street.rollouts->set_groups({group_of(plan)});
  while (street.show()["step"] != 3) street.drive(1s);
  street.open(database->get());
  street.rollouts->set_groups({group_of(plan)});
  EXPECT_EQ(street.state(), "running");
  EXPECT_EQ(street.show()["step"], 3);
  EXPECT_GE(street.show()["stable"]["requests"], 100) << "what the last step is compared with";
  street.drive(1h);
  EXPECT_EQ(street.state(), "promoted");
  street.open(database->get());
  street.rollouts->set_groups({group_of(plan)});
  EXPECT_EQ(street.state(), "promoted");
  ASSERT_TRUE(street.rollouts->rollback("g", "", "ann").has_value());
  street.open(database->get());
  RolloutPlan other = plan;
  other.version = "2";
  street.rollouts->set_groups({group_of(other)});
  EXPECT_EQ(street.state(), "running");
  street.rollouts->set_groups({group_of(plan)});
  EXPECT_EQ(street.state(), "rolled_back");
}

TEST(Rollouts, ServersOfOneDatabaseDecideTogether) {
  const store::FolderForTest folder;
  auto database = store::open_database(folder.path() + "/state.db");
  ASSERT_TRUE(database.has_value());
  Street one(1, database->get()), two(2, database->get());
  one.rollouts->set_groups({group_of(quick())});
  one.rollouts->turn();
  two.now += 10s;
  two.open(database->get());
  two.rollouts->set_groups({group_of(quick())});
  ASSERT_TRUE(one.rollouts->rollback("g", "bad", "ann").has_value());
  two.now += 10s;
  two.rollouts->turn();
  EXPECT_EQ(two.state(), "rolled_back");
  EXPECT_EQ(two.show()["why"], "bad");
}

TEST(Rollouts, TheLaterRollbackStandsWhateverElseWasWritten) {
  const store::FolderForTest folder;
  auto database = store::open_database(folder.path() + "/state.db");
  ASSERT_TRUE(database.has_value());
  Street one(1, database->get());
  one.rollouts->set_groups({group_of(quick())});
  one.rollouts->turn();
  Street two(2, database->get());
  two.rollouts->set_groups({group_of(quick())});
  ASSERT_TRUE(one.rollouts->pause("g", "ann").has_value());
  ASSERT_TRUE(one.rollouts->resume("g", "ann").has_value());
  ASSERT_TRUE(two.rollouts->rollback("g", "bad", "bob").has_value());  // it has not seen them
  two.rollouts->turn();
  one.now += 10s;
  one.rollouts->turn();
  EXPECT_EQ(one.state(), "rolled_back");
}

TEST(Rollouts, ManyThreadsMayAskAtOnce) {
  Log log;
  auto rollouts = Rollouts::open({.every = 1ms, .events = &log, .seed = 7});
  ASSERT_TRUE(rollouts.has_value());
  RolloutPlan plan;
  plan.steps = {0.1, 0.2, 0.4, 0.8, 1};
  plan.hold = 0ms;
  plan.minimum_requests = 20;
  (*rollouts)->set_groups({group_of(plan)});
  std::atomic<bool> over = false;
  std::vector<std::jthread> threads;  // which look at it to the end
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      const std::string group = "g", old = "g/old", fresh = "g/new";
      engine::Request request;
      for (int i = 0; !over; ++i) {
        request.sender.session = std::to_string(t) + "." + std::to_string(i % 1000);
        const auto split = (*rollouts)->split(group, request);
        (*rollouts)->ended({.group = group,
                            .deployment = split->chosen ? fresh : old,
                            .request = request,
                            .how = How::good,
                            .first_token = 10ms,
                            .seconds_per_token = 0.01});
      }
    });
  for (int i = 0; i < 200; ++i) (*rollouts)->set_groups({group_of(plan)});
  while ((*rollouts)->show("g").value_or(Json())["state"] != "promoted") std::this_thread::yield();
  over = true;
}

// Through the router.

struct Trial : fake::House {
  Log log;
  std::unique_ptr<Rollouts> rollouts;
  Trial(RolloutPlan plan, int stable = 1) : House(0) {
    auto made = Rollouts::open({.now = [this] { return now; }, .own_thread = false, .events = &log, .seed = 5});
    rollouts = std::move(*made);
    options.steering = rollouts.get();
    options.cache.most_bytes = 1 << 20;
    for (int i = 0; i < stable; ++i)
      add("g/old" + std::to_string(i), "g").on_start = [](auto& call) { call.answer("old"); };
    add("g/new", "g").on_start = [](auto& call) { call.answer("new"); };
    plan.to = "g/new";
    table.groups.front().rollout = plan;
    open();
  }
  fake::Generator& canary() { return *generators.back(); }
  // What a client reads.
  std::string read(engine::Request request = fake::ask()) {
    fake::Sink sink;
    auto ticket = router->start(std::move(request), sink);
    for (int i = 0; i < 100 && ticket && sink.over == 0; ++i) router->turn();
    return !ticket      ? "refused: " + ticket.error().error.message
           : sink.error ? "failed: " + sink.error->message
                        : sink.words;
  }
};

TEST(RolloutsInTheRouter, ATrialGetsItsShareAndNoMore) {
  RolloutPlan plan;
  plan.steps = {0.25};
  plan.automatic = false;
  Trial trial(plan, 2);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(trial.read(), "old");
  ASSERT_TRUE(trial.rollouts->start("g", "").has_value());
  int fresh = 0;
  for (int i = 0; i < 400; ++i) fresh += trial.read() == "new" ? 1 : 0;
  EXPECT_NEAR(fresh, 100, 40);
  // Not even where nobody else is left.
  ASSERT_TRUE(trial.rollouts->rollback("g", "", "").has_value());
  for (int i = 0; i < 2; ++i)
    trial[static_cast<std::size_t>(i)].refusal = fake::Generator::Refusal{.error = {Code::io, "down"}};
  const int before = trial.canary().started;
  for (int i = 0; i < 50; ++i) EXPECT_NE(trial.read(), "new");
  EXPECT_EQ(trial.canary().started, before);
}

TEST(RolloutsInTheRouter, AFailingTrialIsRolledBackAndNoClientSeesIt) {
  for (const Code code : {Code::io, Code::internal, Code::invalid, Code::unsupported, Code::corrupt}) {
    RolloutPlan plan;
    plan.steps = {0.5, 1};
    Trial trial(plan);
    trial.canary().on_start = [code](auto& call) { call.fail(code); };
    for (int i = 0; i < 200; ++i) ASSERT_EQ(trial.read(), "old") << name(code);
    trial.rollouts->turn();
    EXPECT_EQ(trial.rollouts->show("g").value_or(Json())["state"], "rolled_back") << name(code);
    EXPECT_LE(trial.canary().started, 25) << name(code);
  }
}

TEST(RolloutsInTheRouter, AnAnswerThatIsUnderWayEndsThere) {
  RolloutPlan plan;
  plan.steps = {1};
  Trial trial(plan);
  trial.canary().on_start = nullptr;
  fake::Sink sink;
  auto ticket = trial.router->start(fake::ask(), sink);
  ASSERT_TRUE(ticket.has_value());
  trial.canary().last().start();
  trial.canary().last().text("be");
  ASSERT_TRUE(trial.rollouts->rollback("g", "", "").has_value());
  trial.canary().last().text("gun");
  trial.canary().last().finish();
  EXPECT_EQ(sink.words, "begun");
  EXPECT_EQ(trial.read(), "old");
}

TEST(RolloutsInTheRouter, WhoWaitedForATrialDoesNotGoThereOnceItIsCalledBack) {
  RolloutPlan plan;
  plan.steps = {1};
  Trial trial(plan);
  auto table = trial.router->table();
  for (auto& each : table.deployments) each.max_concurrent = 1;
  ASSERT_TRUE(trial.router->set_table(table).has_value());
  for (auto& each : trial.generators) each->on_start = nullptr;
  fake::Sink sinks[3];
  std::vector<std::unique_ptr<engine::Ticket>> tickets;
  for (auto& sink : sinks) {
    auto ticket = trial.router->start(fake::ask(), sink);
    ASSERT_TRUE(ticket.has_value());
    tickets.push_back(std::move(*ticket));
  }
  EXPECT_EQ(trial.canary().started, 1);
  EXPECT_EQ(trial[0].started, 1);
  ASSERT_TRUE(trial.rollouts->rollback("g", "", "").has_value());
  trial.canary().last().answer("new");  // a place there is free
  trial.router->turn();
  EXPECT_EQ(trial.canary().started, 1);
  trial[0].last().answer("old");
  trial.router->turn();
  EXPECT_EQ(trial[0].started, 2);
}

TEST(RolloutsInTheRouter, WhatATrialAnsweredIsNotKeptForTheOthers) {
  RolloutPlan plan;
  plan.steps = {1};
  Trial trial(plan);
  auto ask = [] {
    auto request = fake::ask("the same");
    request.sampling.temperature = 0;
    return request;
  };
  EXPECT_EQ(trial.read(ask()), "new");
  EXPECT_EQ(trial.read(ask()), "new");
  EXPECT_EQ(trial.canary().started, 1) << "the second came from the cache";
  ASSERT_TRUE(trial.rollouts->rollback("g", "", "").has_value());
  EXPECT_EQ(trial.read(ask()), "old");
}

TEST(RolloutsInTheRouter, ATableSaysWhoIsOnTrial) {
  RolloutPlan plan;
  Trial trial(plan);
  EXPECT_TRUE(trial.router->table().deployments.back().trial);
  auto table = trial.router->table();
  table.groups.front().rollout->to = "nobody";
  EXPECT_FALSE(trial.router->set_table(table).has_value());
  table.groups.front().rollout.reset();
  ASSERT_TRUE(trial.router->set_table(table).has_value());
  EXPECT_FALSE(trial.router->table().deployments.back().trial);
  EXPECT_EQ(trial.rollouts->list().size(), 0u);
}

}  // namespace
}  // namespace ashlar::gateway
