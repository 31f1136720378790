// Sequences and their scheduler, for its tests.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/fakes_for_test.h"
#include "engine/scheduler.h"

namespace ashlar::engine::fake {

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
    return add(std::move(sequence));
  }

  // A prompt that begins with `shared` tokens that all of these have.
  Sequence& add_sharing(int shared, int prompt, int priority = 0, const char* salt = "shared") {
    auto sequence = std::make_unique<Sequence>();
    sequence->order = 100 + sequences.size();
    sequence->tenant = salt;
    sequence->priority = priority;
    sequence->salt = std::make_shared<const std::string>(salt);
    sequence->prompt = prompt;
    sequence->tokens.assign(static_cast<std::size_t>(prompt), static_cast<std::int32_t>(1000 + sequences.size()));
    for (int i = 0; i < shared; ++i) sequence->tokens[static_cast<std::size_t>(i)] = i;
    return add(std::move(sequence));
  }

  // The same, of one that arrived before all others: in a queue it is ahead of a leader that runs already.
  Sequence& add_earlier(int shared, int prompt) {
    Sequence& sequence = add_sharing(shared, prompt);
    scheduler.remove(sequence);
    sequence.order = 0;
    scheduler.add(sequence);
    return sequence;
  }

  Sequence& add(std::unique_ptr<Sequence> sequence) {
    scheduler.add(*sequence);
    sequences.push_back(std::move(sequence));
    return *sequences.back();
  }

  // The same in the middle of a step or between two: of urgent prompts alone.
  const Plan& urgent_step(double seconds = 0) {
    const Plan& plan = scheduler.plan_urgent();
    scheduler.commit_urgent(seconds);
    answer(plan);
    return plan;
  }

  static void answer(const Plan& plan) {
    for (const Plan::Item& item : plan.items)
      if (item.last) item.sequence->tokens.push_back(7);
  }

  // One step; whoever reached its end has one token more.
  const Plan& step(double seconds = 0) {
    const Plan& plan = scheduler.plan();
    scheduler.commit(seconds);
    answer(plan);
    return plan;
  }
};

inline int rows_of(const Plan& plan, const Sequence& sequence) {
  const auto item = std::ranges::find(plan.items, &sequence, &Plan::Item::sequence);
  return item == plan.items.end() ? 0 : item->rows;
}

}  // namespace ashlar::engine::fake
