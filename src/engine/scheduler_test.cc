#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "engine/scheduler_for_test.h"

namespace ashlar::engine {
namespace {

using fake::rows_of;
using fake::Yard;

TEST(Scheduler, DecodesComeFirstAndPromptsGoInChunks) {
  Yard yard(100, {.max_num_seqs = 4, .max_num_batched_tokens = 20});
  const Sequence& first = yard.add(10);
  EXPECT_EQ(rows_of(yard.step(), first), 10);
  const Sequence& second = yard.add(50);
  for (const int chunk : {19, 19, 12}) {
    const Plan& plan = yard.step();
    EXPECT_EQ(rows_of(plan, first), 1);
    EXPECT_EQ(rows_of(plan, second), chunk);
    EXPECT_LE(plan.tokens, 20);
  }
  const Plan& plan = yard.step();
  EXPECT_EQ(plan.decodes, 2);
}

TEST(Scheduler, RunsNoMoreThanItsSequences) {
  Yard yard(100, {.max_num_seqs = 2, .max_num_batched_tokens = 100});
  for (int i = 0; i < 5; ++i) yard.add(4);
  yard.step();
  EXPECT_EQ(yard.scheduler.running(), 2);
  EXPECT_EQ(yard.scheduler.waiting(), 3);
  yard.scheduler.remove(*yard.sequences[0]);
  EXPECT_EQ(rows_of(yard.step(), *yard.sequences[2]), 4) << "its place is taken at the next step";
}

TEST(Scheduler, TheLatestGivesItsBlocksBackAndRecomputes) {
  Yard yard(4, {.max_num_seqs = 4, .max_num_batched_tokens = 64});
  const Sequence& first = yard.add(31);
  const Sequence& second = yard.add(20);
  yard.step();
  EXPECT_EQ(yard.cache.available(), 0);
  yard.step();  // both still fit: 32 and 21
  const Plan& plan = yard.step();
  ASSERT_EQ(plan.preempted.size(), 1u);
  EXPECT_EQ(plan.preempted[0], &second);
  EXPECT_EQ(rows_of(plan, first), 1);
  EXPECT_EQ(second.state, Sequence::State::waiting);
  yard.scheduler.remove(*yard.sequences[0]);
  const Plan& again = yard.step();
  EXPECT_EQ(again.items[0].first, 16) << "its first block was still cached";
  EXPECT_EQ(second.tokens.size(), 23u);
}

TEST(Scheduler, AnUrgentClassIsServedFirstAndPushesOthersOut) {
  Yard yard(4, {.max_num_seqs = 2, .max_num_batched_tokens = 64});
  const Sequence& slow = yard.add(30, "a", 5);
  yard.step();
  const Sequence& low = yard.add(10, "a", 5);
  const Sequence& urgent = yard.add(40, "b", -1);
  const Plan& plan = yard.step();
  EXPECT_EQ(rows_of(plan, urgent), 40);
  EXPECT_EQ(rows_of(plan, slow), 0);
  EXPECT_EQ(rows_of(plan, low), 0);
  EXPECT_EQ(plan.preempted.size(), 1u);
}

TEST(Scheduler, NobodyOvertakesOneThatFindsNoRoom) {
  Yard yard(4, {.max_num_seqs = 8, .max_num_batched_tokens = 64});
  Sequence& holder = yard.add(30);
  yard.step();
  const Sequence& large = yard.add(50);
  const Sequence& small = yard.add(1);
  for (int i = 0; i < 2; ++i) {
    const Plan& plan = yard.step();
    EXPECT_EQ(rows_of(plan, large), 0);
    EXPECT_EQ(rows_of(plan, small), 0);
  }
  yard.scheduler.remove(holder);
  EXPECT_EQ(rows_of(yard.step(), large), 50);
}

TEST(Scheduler, TenantsTakeTurnsByWhatTheyUsed) {
  Yard yard(1000, {.max_num_seqs = 4, .max_num_batched_tokens = 32});
  // One tenant floods, another sends a few: neither waits for the other's backlog.
  for (int i = 0; i < 60; ++i) yard.add(32, "flood");
  for (int i = 0; i < 10; ++i) yard.add(32, "calm");
  std::map<std::string, int> served;
  for (int step = 0; step < 24; ++step) {
    const Plan& plan = yard.step();
    for (const Plan::Item& item : plan.items) served[item.sequence->tenant] += item.rows;
    for (const auto& sequence : yard.sequences)
      if (sequence->tokens.size() > 32) yard.scheduler.remove(*sequence);
  }
  EXPECT_GE(served["calm"], 10 * 32) << "all of it, though 60 came before";
  EXPECT_NEAR(served["flood"], 14 * 32, 32);
}

TEST(Scheduler, ATenantThatComesBackStartsLevel) {
  Yard yard(1000, {.max_num_seqs = 1, .max_num_batched_tokens = 64});
  for (int i = 0; i < 20; ++i) yard.add(64, "busy");
  for (int step = 0; step < 10; ++step) {
    yard.step();
    yard.scheduler.remove(*yard.sequences[static_cast<std::size_t>(step)]);
  }
  yard.add(64, "new");
  EXPECT_EQ(yard.scheduler.queue().served(0, "new"), yard.scheduler.queue().served(0, "busy"));
  EXPECT_GE(yard.scheduler.queue().served(0, "new"), 640);
}

TEST(Scheduler, RecomputingIsNotCharged) {
  Yard yard(4, {.max_num_seqs = 4, .max_num_batched_tokens = 64});
  yard.add(31, "a");
  Sequence& second = yard.add(20, "b");
  for (int i = 0; i < 3; ++i) yard.step();
  ASSERT_EQ(second.state, Sequence::State::waiting);
  const double before = yard.scheduler.queue().served(0, "b");
  yard.scheduler.remove(*yard.sequences[0]);
  yard.step();
  EXPECT_LE(yard.scheduler.queue().served(0, "b") - before, FairQueue::kAnswerWeight);
}

TEST(Scheduler, AForkRunsAtOnceOrWaits) {
  Yard yard(100, {.max_num_seqs = 2, .max_num_batched_tokens = 64});
  const Sequence& first = yard.add(20);
  yard.scheduler.plan();
  yard.scheduler.commit();
  for (int i = 0; i < 2; ++i) {
    auto copy = std::make_unique<Sequence>();
    copy->order = 10 + static_cast<std::uint64_t>(i);
    copy->tenant = "t";
    copy->salt = first.salt;
    copy->prompt = first.prompt;
    copy->tokens = first.tokens;
    yard.scheduler.fork(first, *copy);
    copy->tokens.push_back(1);
    yard.sequences.push_back(std::move(copy));
  }
  yard.sequences[0]->tokens.push_back(2);
  EXPECT_EQ(yard.sequences[1]->state, Sequence::State::running);
  EXPECT_EQ(yard.sequences[2]->state, Sequence::State::waiting);
  EXPECT_EQ(yard.scheduler.plan().decodes, 2);
  yard.scheduler.commit();
  yard.scheduler.remove(*yard.sequences[0]);
  const Plan& plan = yard.step();
  EXPECT_EQ(rows_of(plan, *yard.sequences[2]), 5) << "its first block is shared";
}

TEST(Scheduler, PromptsThatBeginAlikeAreComputedOnce) {
  Yard yard(1000, {.max_num_seqs = 8, .max_num_batched_tokens = 2048});
  for (int i = 0; i < 8; ++i) yard.add_sharing(400, 410);
  const Plan& first = yard.step();
  EXPECT_EQ(first.tokens, 410) << "the others came in the same step and wait";
  EXPECT_EQ(first.followers, 7);
  EXPECT_EQ(yard.scheduler.waiting(), 7);
  const Plan& second = yard.step();
  EXPECT_EQ(second.tokens, 1 + 7 * 10);
  EXPECT_EQ(second.followers, 0);
  EXPECT_EQ(yard.scheduler.waiting(), 0);
  for (std::size_t i = 1; i < 8; ++i) EXPECT_EQ(yard.sequences[i]->prefix_hit, 400);
}

TEST(Scheduler, AFollowerGoesOnAsSoonAsTheCommonBlocksAreThere) {
  Yard yard(1000, {.max_num_seqs = 8, .max_num_batched_tokens = 64});
  Sequence& leader = yard.add_sharing(200, 600);
  yard.step();
  const Sequence& follower = yard.add_earlier(200, 230);
  EXPECT_EQ(rows_of(yard.step(), leader), 64);
  EXPECT_EQ(follower.leader, &leader);
  EXPECT_EQ(rows_of(yard.step(), leader), 64);
  EXPECT_EQ(follower.leader, nullptr) << "192 are common, and there";
  EXPECT_EQ(rows_of(yard.step(), follower), 230 - 192);
  EXPECT_EQ(follower.prefix_hit, 192);
}

TEST(Scheduler, OthersGoAheadOfAFollower) {
  Yard yard(1000, {.max_num_seqs = 8, .max_num_batched_tokens = 300});
  const Sequence& leader = yard.add_sharing(200, 220);
  const Sequence& follower = yard.add_sharing(200, 220);
  const Sequence& other = yard.add(40);
  const Plan& plan = yard.step();
  EXPECT_EQ(rows_of(plan, leader), 220);
  EXPECT_EQ(rows_of(plan, follower), 0);
  EXPECT_EQ(rows_of(plan, other), 40);
}

TEST(Scheduler, AFollowerGoesOnWithoutItsLeader) {
  for (const bool remove : {true, false}) {
    Yard yard(16, {.max_num_seqs = 8, .max_num_batched_tokens = 32});
    Sequence& leader = yard.add_sharing(128, 150);
    yard.step();
    Sequence& follower = yard.add_earlier(128, 140);
    yard.step();
    ASSERT_EQ(follower.leader, &leader);
    if (remove) {
      yard.scheduler.remove(leader);
    } else {
      yard.add(200, "urgent", -1);  // pushes the leader out
      EXPECT_EQ(yard.step().preempted.size(), 1u);
    }
    EXPECT_EQ(follower.leader, nullptr);
    EXPECT_EQ(follower.state, Sequence::State::waiting);
    if (!remove) yard.scheduler.remove(*yard.sequences.back());
    EXPECT_EQ(rows_of(yard.step(), follower), 32);
    EXPECT_EQ(follower.prefix_hit, 64) << "what the leader had computed";
  }
}

TEST(Scheduler, AFollowerMayLeave) {
  Yard yard(100, {.max_num_seqs = 8, .max_num_batched_tokens = 32});
  Sequence& leader = yard.add_sharing(128, 150);
  yard.step();
  Sequence& follower = yard.add_earlier(128, 140);
  yard.step();
  ASSERT_EQ(follower.leader, &leader);
  yard.scheduler.remove(follower);
  EXPECT_EQ(yard.scheduler.waiting(), 0);
  for (int i = 0; i < 6; ++i) yard.step();
  yard.scheduler.remove(leader);
  EXPECT_TRUE(yard.scheduler.idle());
  EXPECT_EQ(yard.cache.available(), 100);
}

TEST(Scheduler, WhoMayNotShareDoesNotWait) {
  const auto rows = [](auto&& change, int priority = 0, const char* salt = "shared") {
    Yard yard(100, {.max_num_seqs = 8, .max_num_batched_tokens = 512});
    yard.add_sharing(128, 150);
    Sequence& second = yard.add_sharing(128, 140, priority, salt);
    change(yard, second);
    return rows_of(yard.step(), second);
  };
  const auto nothing = [](Yard&, Sequence&) {};
  EXPECT_EQ(rows(nothing), 0);
  EXPECT_EQ(rows(nothing, 0, "another"), 140) << "another tenant or salt";
  EXPECT_EQ(rows(nothing, 1), 0) << "a less urgent one may wait for a more urgent one";
  EXPECT_EQ(rows([](Yard&, Sequence& second) { second.reuse_prefix = false; }), 140);
  EXPECT_EQ(rows([](Yard& yard, Sequence&) { yard.sequences[0]->max_chunk = 8; }), 140)
      << "not for one that goes in small steps";
  Yard yard(100, {.max_num_seqs = 8, .max_num_batched_tokens = 64});
  yard.add_sharing(128, 150, 1);
  yard.step();
  const Sequence& urgent = yard.add_sharing(128, 140, 0);
  EXPECT_EQ(rows_of(yard.step(), urgent), 64) << "nor an urgent one for another that its own class holds up";
  EXPECT_EQ(urgent.prefix_hit, 64);
}

// A machine where a step takes 1 ms for each row, 10 ms in any case.
TEST(Scheduler, PromptsLeaveRoomForTheTargetBetweenTokens) {
  Yard yard(1000, {.max_num_seqs = 8, .max_num_batched_tokens = 512, .target_itl = std::chrono::milliseconds(100)});
  const auto seconds = [](const Plan& plan) { return 0.010 + 0.001 * plan.tokens; };
  const auto step = [&]() -> const Plan& {
    const Plan& plan = yard.scheduler.plan();
    yard.scheduler.commit(seconds(plan));
    for (const Plan::Item& item : plan.items)
      if (item.last) item.sequence->tokens.push_back(7);
    return plan;
  };
  for (int i = 0; i < 4; ++i) yard.add(128);
  EXPECT_EQ(step().tokens, 512) << "with nobody decoding, all that fits";
  const Sequence& large = yard.add(2000);
  int steps = 0;
  for (; large.remaining() > 1; ++steps) {
    const Plan& plan = step();
    EXPECT_EQ(plan.decodes, 4);
    EXPECT_GE(plan.tokens - plan.decodes, std::min(32, large.remaining()));
    EXPECT_LE(seconds(plan), 0.105) << "step " << steps;
  }
  EXPECT_LE(steps, 2000 / 64 + 2) << "and no less than fits";
}

TEST(Scheduler, PromptsGoOnWhereTheTargetCannotBeMet) {
  for (const double row : {0.001, 1.0}) {
    Yard yard(1000, {.max_num_seqs = 8, .max_num_batched_tokens = 512, .target_itl = std::chrono::milliseconds(1)});
    yard.add(400);
    yard.step(0.1 + row * 400);
    for (int i = 0; i < 50; ++i) yard.step(0.1 + row);
    const Sequence& large = yard.add(1000);
    int rows = 0;
    for (int i = 0; i < 10; ++i) {
      rows = rows_of(yard.scheduler.plan(), large);
      yard.scheduler.commit(0.1 + row * (rows + 1));
      yard.sequences[0]->tokens.push_back(7);
    }
    EXPECT_EQ(rows, row == 1.0 ? 32 : 48) << "a third of the step, but 32 in any case";
  }
}

// Nothing starves, nothing leaks, no step is over its budget or empty.
TEST(Scheduler, RandomLoadAlwaysEnds) {
  std::mt19937 random(5);
  int followers = 0;
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 60; ++round) {
    const int blocks = 4 + below(12), most = blocks * models::kBlockTokens;
    const SchedulerOptions options{.max_num_seqs = 1 + below(6),
                                   .max_num_batched_tokens = 6 + below(200),
                                   .target_itl = std::chrono::milliseconds(below(3) * 20)};
    Yard yard(blocks, options);
    std::map<const Sequence*, std::size_t> wanted;
    int to_come = 40;
    for (int step = 0; to_come > 0 || !yard.scheduler.idle(); ++step) {
      ASSERT_LT(step, 20'000) << "round " << round;
      if (to_come > 0 && (below(3) == 0 || yard.scheduler.idle())) {
        const int prompt = 1 + below(most - 1);
        const Sequence& added = below(2) == 0 ? yard.add(prompt, std::to_string(below(3)), below(2))
                                              : yard.add_sharing(below(prompt + 1), prompt, below(2));
        wanted[&added] = static_cast<std::size_t>(prompt + 1 + below(most - prompt));
        --to_come;
      }
      const Plan& plan = yard.step(0.001 * (1 + below(50)));
      ASSERT_FALSE(plan.items.empty());
      followers += plan.followers;
      ASSERT_LE(plan.tokens, options.max_num_batched_tokens);
      ASSERT_LE(yard.scheduler.running(), options.max_num_seqs);
      for (const auto& sequence : yard.sequences)
        if (sequence->state != Sequence::State::out &&
            (sequence->tokens.size() >= wanted[sequence.get()] || below(200) == 0))
          yard.scheduler.remove(*sequence);
    }
    EXPECT_EQ(yard.cache.available(), blocks);
  }
  EXPECT_GT(followers, 50);
}

}  // namespace
}  // namespace ashlar::engine
