// What urgent sequences have before all others, and what the others keep.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "engine/scheduler_for_test.h"

namespace ashlar::engine {
namespace {

using fake::rows_of;
using fake::Yard;
using std::chrono::milliseconds;

TEST(UrgentPrompts, HaveAStepOfTheirOwn) {
  Yard yard(100, {.max_num_seqs = 4, .max_num_batched_tokens = 64});
  const Sequence& usual = yard.add(20);
  yard.step();
  const Sequence& waiting = yard.add(10);
  const Sequence& urgent = yard.add(30, "t", -1);
  const Plan& alone = yard.urgent_step();
  ASSERT_EQ(alone.items.size(), 1u);
  EXPECT_EQ(rows_of(alone, urgent), 30);
  EXPECT_EQ(urgent.tokens.size(), 31u);
  EXPECT_TRUE(yard.urgent_step().items.empty()) << "its answer goes on with the others'";
  const Plan& all = yard.step();
  EXPECT_EQ(rows_of(all, urgent), 1);
  EXPECT_EQ(rows_of(all, usual), 1);
  EXPECT_EQ(rows_of(all, waiting), 10);
}

TEST(UrgentPrompts, ShareStepsWhereNobodyIsLessUrgent) {
  Yard yard(100, {.max_num_seqs = 4, .max_num_batched_tokens = 64});
  yard.add(20, "t", -1);
  EXPECT_TRUE(yard.urgent_step().items.empty());
  yard.step();
  yard.add(20, "t", -1);
  EXPECT_TRUE(yard.urgent_step().items.empty());
  EXPECT_EQ(yard.step().tokens, 21);
}

TEST(UrgentPrompts, ComeInTheMiddleOfAStepAndPushOutAfterIt) {
  Yard yard(100, {.max_num_seqs = 2, .max_num_batched_tokens = 64});
  Sequence& first = yard.add(40);
  yard.add(20);
  yard.step();
  const Plan& plan = yard.scheduler.plan();
  const Sequence& urgent = yard.add(10, "t", -1);
  const Plan& amid = yard.urgent_step();
  EXPECT_EQ(rows_of(amid, urgent), 10);
  EXPECT_TRUE(amid.preempted.empty());
  EXPECT_EQ(yard.scheduler.running(), 3) << "what is computed keeps its place";
  EXPECT_EQ(plan.items.size(), 2u);
  yard.scheduler.commit();
  Yard::answer(plan);

  const Plan& next = yard.step();
  ASSERT_EQ(next.preempted.size(), 1u);
  const Sequence& pushed = *yard.sequences[1];
  EXPECT_EQ(next.preempted[0], &pushed);
  EXPECT_EQ(yard.scheduler.running(), 2);
  yard.scheduler.remove(first);
  const Plan& again = yard.step();
  EXPECT_EQ(again.items.back().sequence, &pushed);
  EXPECT_EQ(again.items.back().first, 16) << "it goes on from what the cache has kept";
}

TEST(UrgentPrompts, AreNoMoreThanHaveRoomAfterTheStep) {
  Yard yard(100, {.max_num_seqs = 2, .max_num_batched_tokens = 64});
  yard.add(8);
  yard.add(8);
  yard.step();
  yard.scheduler.plan();
  for (int i = 0; i < 3; ++i) yard.add(8, "t", -1);
  EXPECT_EQ(yard.urgent_step().items.size(), 2u) << "two may be pushed out for them";
  yard.scheduler.commit();
  EXPECT_EQ(yard.step().preempted.size(), 2u);
  EXPECT_EQ(yard.scheduler.running(), 2);
}

TEST(UrgentPrompts, WaitForTheStepsEndWhereBlocksAreShort) {
  Yard yard(4, {.max_num_seqs = 4, .max_num_batched_tokens = 64});
  yard.add(40);
  yard.step();
  yard.scheduler.plan();
  const Sequence& urgent = yard.add(30, "t", -1);
  EXPECT_TRUE(yard.urgent_step().items.empty()) << "its blocks are being written";
  yard.scheduler.commit();
  const Plan& plan = yard.urgent_step();
  EXPECT_EQ(rows_of(plan, urgent), 30);
  EXPECT_EQ(plan.preempted.size(), 1u);
}

// What a step has is not in another one at the same time.
TEST(UrgentPrompts, AreNotPlannedTwice) {
  Yard yard(100, {.max_num_seqs = 4, .max_num_batched_tokens = 32});
  const Sequence& early = yard.add(100, "t", -1);
  yard.step();
  yard.add(8, "t", 0);
  const Plan& plan = yard.scheduler.plan();
  EXPECT_GT(rows_of(plan, early), 0);
  EXPECT_TRUE(yard.urgent_step().items.empty());
  yard.scheduler.commit();
}

TEST(UrgentPrompts, HoldTheOthersUpByATargetAtMost) {
  Yard yard(1000, {.max_num_seqs = 4, .max_num_batched_tokens = 512, .target_itl = milliseconds(100)});
  const auto seconds = [](const Plan& plan) { return 0.010 + 0.001 * plan.tokens; };
  yard.add(400);
  for (int i = 0; i < 20; ++i) {
    const Plan& plan = yard.scheduler.plan();
    yard.scheduler.commit(seconds(plan));
    Yard::answer(plan);
  }
  const Sequence& urgent = yard.add(2000, "t", -1);
  for (int i = 0; i < 5; ++i) {
    int rows = 0;
    for (const Plan* plan = &yard.scheduler.plan_urgent(); !plan->items.empty(); plan = &yard.scheduler.plan_urgent()) {
      rows += rows_of(*plan, urgent);
      yard.scheduler.commit_urgent(seconds(*plan));
    }
    EXPECT_GE(rows, 32);
    EXPECT_LE(0.010 + 0.001 * rows, 0.105);
    const Plan& plan = yard.scheduler.plan();
    EXPECT_EQ(plan.decodes, 1) << "then the others go on";
    yard.scheduler.commit(seconds(plan));
    Yard::answer(plan);
  }
}

// There is always one more that is urgent. Steps until all of `usual` are done.
int steps_under_a_stream(SchedulerOptions options, int blocks, int usual, int prompt, int answer, bool own_steps) {
  Yard yard(blocks, options);
  std::vector<Sequence*> those;
  for (int i = 0; i < usual; ++i) those.push_back(&yard.add(prompt));
  int steps = 0;
  for (std::size_t left = those.size(); left > 0; ++steps) {
    if (steps > 20'000) return steps;
    int urgent = 0;
    for (const auto& sequence : yard.sequences)
      urgent += sequence->priority < 0 && sequence->state != Sequence::State::out;
    for (; urgent < 3 * options.max_num_seqs; ++urgent) yard.add(20, "t", -1);
    if (own_steps) yard.urgent_step();
    const Plan& plan = yard.scheduler.plan();
    if (own_steps) yard.urgent_step();
    yard.scheduler.commit();
    Yard::answer(plan);
    for (const auto& sequence : yard.sequences)
      if (sequence->priority < 0 && sequence->tokens.size() >= 22) yard.scheduler.remove(*sequence);
    for (Sequence* each : those)
      if (each->state != Sequence::State::out && each->tokens.size() >= static_cast<std::size_t>(prompt + answer)) {
        yard.scheduler.remove(*each);
        --left;
      }
  }
  return steps;
}

TEST(UrgentPrompts, LetEveryEighthBeOneOfTheOthers) {
  for (const bool own_steps : {false, true})
    for (const int places : {1, 2, 16}) {
      const SchedulerOptions options{.max_num_seqs = places, .max_num_batched_tokens = 64};
      EXPECT_LT(steps_under_a_stream(options, 200, 10, 30, 10, own_steps), 10 * (8 * 2 + 12)) << places << " places";
      EXPECT_LT(steps_under_a_stream(options, 200, 2, 900, 10, own_steps), 2 * (900 / 16 + 16 + 12 + 20))
          << "a long prompt, a quarter of the rows at a time, in " << places;
    }
  const SchedulerOptions options{.max_num_seqs = 8, .max_num_batched_tokens = 64};
  EXPECT_LT(steps_under_a_stream(options, 10, 4, 140, 10, true), 1000) << "one that needs nearly all blocks";
}

TEST(UrgentPrompts, LeaveTheLeastUrgentForLast) {
  Yard yard(100, {.max_num_seqs = 1, .max_num_batched_tokens = 64});
  const Sequence& background = yard.add(10, "t", 1);
  for (int i = 0; i < 50; ++i) {
    Sequence& urgent = yard.add(10, "t", i % 2 == 0 ? -1 : 0);
    yard.step();
    yard.scheduler.remove(urgent);
  }
  EXPECT_EQ(background.prefix_hit, -1) << "it asked to come after all others";
}

TEST(UrgentPrompts, KeepAnEighthOfThePlacesAtMostFromOthers) {
  Yard yard(1000, {.max_num_seqs = 16, .max_num_batched_tokens = 512});
  for (int i = 0; i < 60; ++i) yard.add(8);
  for (int i = 0; i < 200; ++i) yard.add(8, "t", -1);
  for (int step = 0; step < 40; ++step) {
    yard.step();
    int kept = 0;
    for (const auto& sequence : yard.sequences) {
      kept += sequence->kept ? 1 : 0;
      if (sequence->priority < 0 && sequence->tokens.size() >= 10) yard.scheduler.remove(*sequence);
    }
    EXPECT_LE(kept, 2);
  }
}

// Whatever is pushed out, cut short and removed: everything ends, nothing leaks, and nothing is in two steps at once.
TEST(UrgentPrompts, RandomLoadAlwaysEnds) {
  std::mt19937 random(6);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  int amid = 0;
  for (int round = 0; round < 60; ++round) {
    const int blocks = 4 + below(12), most = blocks * models::kBlockTokens;
    const SchedulerOptions options{.max_num_seqs = 1 + below(6),
                                   .max_num_batched_tokens = 6 + below(200),
                                   .target_itl = milliseconds(below(3) * 20)};
    Yard yard(blocks, options);
    std::map<const Sequence*, std::size_t> wanted;
    int to_come = 40;
    const auto arrive = [&] {
      const int prompt = 1 + below(most - 1);
      const Sequence& added = below(2) == 0 ? yard.add(prompt, std::to_string(below(3)), below(4) - 2)
                                            : yard.add_sharing(below(prompt + 1), prompt, below(4) - 2);
      wanted[&added] = static_cast<std::size_t>(prompt + 1 + below(most - prompt));
      --to_come;
    };
    for (int step = 0; to_come > 0 || !yard.scheduler.idle(); ++step) {
      ASSERT_LT(step, 20'000) << "round " << round;
      if (to_come > 0 && (below(3) == 0 || yard.scheduler.idle())) arrive();
      yard.urgent_step(0.001 * below(20));
      const Plan& plan = yard.scheduler.plan();
      ASSERT_FALSE(plan.items.empty());
      ASSERT_LE(plan.tokens, options.max_num_batched_tokens);
      ASSERT_LE(yard.scheduler.running(), options.max_num_seqs);
      while (to_come > 0 && below(3) == 0) {
        arrive();
        for (const Plan::Item& item : yard.urgent_step(0.001 * below(20)).items) {
          EXPECT_EQ(rows_of(plan, *item.sequence), 0);
          ++amid;
        }
      }
      yard.scheduler.commit(0.001 * (1 + below(50)));
      Yard::answer(plan);
      for (const auto& sequence : yard.sequences)
        if (sequence->state != Sequence::State::out &&
            (sequence->tokens.size() >= wanted[sequence.get()] || below(200) == 0))
          yard.scheduler.remove(*sequence);
    }
    EXPECT_EQ(yard.cache.available(), blocks);
  }
  EXPECT_GT(amid, 20);
}

}  // namespace
}  // namespace ashlar::engine
