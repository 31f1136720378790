#include "engine/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace ashlar::engine {
namespace {

// A 1b model on two cores: 24 ms to stream the weights, 0.5 ms for a prompt row,
// 0.4 ms for a decode, and what attention adds.
double machine(const StepLoad& load) {
  return 0.024 + 5e-4 * load.prompt_rows + 4e-4 * load.decodes + 1e-7 * load.prompt_keys + 2e-7 * load.decode_keys;
}

StepLoad load_of(int rows, int first, int decodes, int depth) {
  return {.prompt_rows = rows,
          .decodes = decodes,
          .prompt_keys = rows * (first + 0.5 * rows),
          .decode_keys = 1.0 * decodes * depth};
}

// Steps as a server has them: whole prompts at first, then decodes with some rows of a prompt.
void serve(StepCost& cost, std::mt19937& random, int steps, auto&& took) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < steps; ++i) {
    const StepLoad load = i == 0         ? load_of(512, 0, 0, 0)
                          : below(3) > 0 ? load_of(0, 0, 1 + below(16), 100 + below(900))
                                         : load_of(16 + below(112), below(2000), 1 + below(16), 100 + below(900));
    cost.learn(load, took(load));
  }
}

// What a step would take that is filled up to `target`.
double filled(const StepCost& cost, int first, int decodes, double target) {
  StepLoad load = load_of(0, 0, decodes, 500);
  const int rows = cost.rows_within(load, first, target);
  load.prompt_rows = rows;
  load.prompt_keys = rows * (first + 0.5 * rows);
  return machine(load);
}

TEST(StepCost, KnowsNothingAtFirst) {
  const StepCost cost;
  EXPECT_EQ(cost.seconds({.prompt_rows = 10, .decodes = 3}), 0);
  EXPECT_EQ(cost.rows_within({.decodes = 3}, 0, 1), 0);
}

TEST(StepCost, LearnsWhatEachPartCosts) {
  StepCost cost;
  std::mt19937 random(1);
  serve(cost, random, 300, machine);
  for (const StepLoad& load : {load_of(0, 0, 1, 100), load_of(0, 0, 16, 1000), load_of(64, 0, 8, 500),
                               load_of(128, 1800, 8, 500), load_of(16, 900, 1, 100)})
    EXPECT_NEAR(cost.seconds(load), machine(load), 0.03 * machine(load));
  for (const int first : {0, 1000, 2000})
    for (const int decodes : {1, 8, 16}) EXPECT_NEAR(filled(cost, first, decodes, 0.08), 0.08, 0.008);
}

TEST(StepCost, OneWholePromptTellsEnoughToBegin) {
  StepCost cost;
  cost.learn(load_of(512, 0, 0, 0), machine(load_of(512, 0, 0, 0)));
  cost.learn(load_of(0, 0, 1, 512), machine(load_of(0, 0, 1, 512)));
  const double took = filled(cost, 0, 1, 0.1);
  EXPECT_LE(took, 0.115);
  EXPECT_GE(took, 0.05);
}

TEST(StepCost, NoiseAndStepsThatAreHeldUpHardlyMoveIt) {
  StepCost cost;
  std::mt19937 random(2);
  std::normal_distribution<double> noise(1, 0.08);
  double longest = 0, shortest = 1;
  for (int round = 0; round < 40; ++round) {
    serve(cost, random, 50, [&](const StepLoad& load) {
      return machine(load) * std::max(0.8, noise(random)) * (random() % 25 == 0 ? 5 : 1);
    });
    if (round < 4) continue;
    const double took = filled(cost, 500, 8, 0.08);
    longest = std::max(longest, took);
    shortest = std::min(shortest, took);
  }
  EXPECT_LE(longest, 0.092);
  EXPECT_GE(shortest, 0.05);
}

TEST(StepCost, AMachineThatBecameSlowerIsNoticedWithinTenSteps) {
  StepCost cost;
  std::mt19937 random(3);
  serve(cost, random, 300, machine);
  for (int i = 0; i < 10; ++i) {
    const StepLoad load = load_of(i % 2 == 0 ? 64 : 0, 500, 8, 500);
    cost.learn(load, 2 * machine(load));
  }
  EXPECT_LE(2 * filled(cost, 500, 8, 0.08), 0.08 * 1.2);
  for (int i = 0; i < 10; ++i) {
    const StepLoad load = load_of(i % 2 == 0 ? 64 : 0, 500, 8, 500);
    cost.learn(load, machine(load));
  }
  EXPECT_GE(filled(cost, 500, 8, 0.08), 0.08 * 0.75);
}

TEST(StepCost, TheFirstStepMayHaveReadTheModelFromDisk) {
  StepCost cost;
  cost.learn(load_of(64, 0, 0, 0), 20);
  for (int i = 0; i < 12; ++i) {
    const StepLoad load = load_of(i % 3 == 0 ? 64 : 0, 0, 4, 100);
    cost.learn(load, machine(load));
  }
  EXPECT_GE(filled(cost, 0, 4, 0.1), 0.06);
}

// Few rows ride along with the weights that a decode streams; many do not.
TEST(StepCost, FewCheapRowsDoNotPromiseManyCheapOnes) {
  StepCost cost;
  const auto took = [](int rows) { return std::max(0.024, 0.004 + 5e-4 * rows); };
  for (int i = 0; i < 500; ++i) cost.learn(load_of(i % 2 * 16, 0, 1, 100), took(i % 2 * 16));
  double longest = 0;
  for (int i = 0; i < 40; ++i) {
    const int rows = std::min(512, cost.rows_within(load_of(0, 0, 1, 100), 0, 0.1));
    longest = std::max(longest, took(rows));
    cost.learn(load_of(rows, 0, 1, 100), took(rows));
  }
  EXPECT_LE(longest, 0.15);
  EXPECT_GE(took(cost.rows_within(load_of(0, 0, 1, 100), 0, 0.1)), 0.07);
}

// A year of equal steps makes nothing doubtful, and nothing certain for ever.
TEST(StepCost, EqualStepsForEverDoNoHarm) {
  StepCost cost;
  std::mt19937 random(4);
  serve(cost, random, 300, machine);
  std::normal_distribution<double> noise(1, 0.05);
  for (int i = 0; i < 200'000; ++i) cost.learn(load_of(0, 0, 16, 500), machine(load_of(0, 0, 16, 500)) * noise(random));
  EXPECT_NEAR(filled(cost, 0, 16, 0.08), 0.08, 0.02);
  EXPECT_NEAR(filled(cost, 0, 12, 0.08), 0.08, 0.02);
}

}  // namespace
}  // namespace ashlar::engine
