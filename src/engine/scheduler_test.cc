#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

// A scheduler over a cache, and the sequences that it schedules.
struct Yard {
  fake::KvStore store;
  KvCache cache;
  Scheduler scheduler;
  std::vector<std::unique_ptr<Sequence>> sequences;

  Yard(int blocks, SchedulerOptions options) : store(blocks), cache(store, true), scheduler(options, cache) {}

  Sequence& add(int prompt, std::string tenant = "t", int priority = 0) {
    auto sequence = std::make_unique<Sequence>();
    sequence->order = sequences.size();
    sequence->tenant = std::move(tenant);
    sequence->priority = priority;
    sequence->salt = std::make_shared<const std::string>(std::to_string(sequences.size()));
    sequence->prompt = prompt;
    sequence->tokens.assign(static_cast<std::size_t>(prompt), static_cast<std::int32_t>(sequences.size()));
    scheduler.add(*sequence);
    sequences.push_back(std::move(sequence));
    return *sequences.back();
  }

  // One step; whoever reached its end has one token more.
  const Plan& step() {
    const Plan& plan = scheduler.plan();
    scheduler.commit();
    for (const Plan::Item& item : plan.items)
      if (item.last) item.sequence->tokens.push_back(7);
    return plan;
  }
};

int rows_of(const Plan& plan, const Sequence& sequence) {
  const auto item = std::ranges::find(plan.items, &sequence, &Plan::Item::sequence);
  return item == plan.items.end() ? 0 : item->rows;
}

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

// Nothing starves, nothing leaks, no step is over its budget or empty.
TEST(Scheduler, RandomLoadAlwaysEnds) {
  std::mt19937 random(5);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 60; ++round) {
    const int blocks = 4 + below(12), most = blocks * models::kBlockTokens;
    const SchedulerOptions options{.max_num_seqs = 1 + below(6), .max_num_batched_tokens = 6 + below(60)};
    Yard yard(blocks, options);
    std::map<const Sequence*, std::size_t> wanted;
    int to_come = 40;
    for (int step = 0; to_come > 0 || !yard.scheduler.idle(); ++step) {
      ASSERT_LT(step, 20'000) << "round " << round;
      if (to_come > 0 && (below(3) == 0 || yard.scheduler.idle())) {
        const int prompt = 1 + below(most - 1);
        const Sequence& added = yard.add(prompt, std::to_string(below(3)), below(2));
        wanted[&added] = static_cast<std::size_t>(prompt + 1 + below(most - prompt));
        --to_come;
      }
      const Plan& plan = yard.step();
      ASSERT_FALSE(plan.items.empty());
      ASSERT_LE(plan.tokens, options.max_num_batched_tokens);
      ASSERT_LE(yard.scheduler.running(), options.max_num_seqs);
      for (const auto& sequence : yard.sequences)
        if (sequence->state != Sequence::State::out &&
            (sequence->tokens.size() >= wanted[sequence.get()] || below(200) == 0))
          yard.scheduler.remove(*sequence);
    }
    EXPECT_EQ(yard.cache.available(), blocks);
  }
}

}  // namespace
}  // namespace ashlar::engine
