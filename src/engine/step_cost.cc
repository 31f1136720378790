#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>

namespace ashlar::engine {
namespace {

// Units in which every term of a usual step is about 1.
constexpr double kRows = 64, kDecodes = 16, kKeys = 64 * 1024;

constexpr double kNoise = 0.1;   // by how much like steps differ, as a share
constexpr double kDrift = 0.01;  // by how much a cost may change from step to step
constexpr double kFarOff = 3;    // deviations
constexpr int kChanged = 4;      // slow steps in a row that are no accident
constexpr double kReachFurther = 1.5, kReachKept = 0.98;

}  // namespace

StepCost::Terms StepCost::terms(const StepLoad& load) {
  return {1, load.prompt_rows / kRows, load.decodes / kDecodes, load.prompt_keys / kKeys, load.decode_keys / kKeys};
}

double StepCost::seconds(const StepLoad& load) const {
  const Terms x = terms(load);
  double sum = 0;
  for (std::size_t i = 0; i < kTerms; ++i) sum += cost_[i] * x[i];
  return sum;
}

// Time passes: what this step has is known a little less well than before. No
// cost is ever in doubt by more than a usual step.
void StepCost::widen(const Terms& x) {
  for (std::size_t i = 0; i < kTerms; ++i) {
    if (x[i] > 0) doubt_[i][i] += std::pow(kDrift * (cost_[i] + 0.1 * level_), 2);
    const double most = level_ * level_;
    if (doubt_[i][i] <= most) continue;
    const double shrink = std::sqrt(most / doubt_[i][i]);
    for (std::size_t j = 0; j < kTerms; ++j) {
      doubt_[i][j] *= shrink;
      doubt_[j][i] *= shrink;
    }
  }
}

// What this step has may cost anything up to twice what it did.
void StepCost::forget(const Terms& x) {
  slow_ = 0;
  for (std::size_t i = 0; i < kTerms; ++i)
    if (x[i] > 0) doubt_[i][i] += cost_[i] * cost_[i];
}

void StepCost::learn(const StepLoad& load, double seconds) {
  if (!(seconds > 0)) return;
  const Terms x = terms(load);
  if (load.prompt_rows > 0) reach_ = std::max<double>(load.prompt_rows, kReachKept * reach_);
  if (level_ == 0) {
    level_ = seconds;
    for (std::size_t i = 0; i < kTerms; ++i) doubt_[i][i] = seconds * seconds;
  }
  // A step may be held up by accident, but none is fast by accident: no part of
  // it costs more than the whole.
  for (std::size_t i = 0; i < kTerms; ++i)
    if (x[i] > 0) cost_[i] = std::min(cost_[i], (1 + 2 * kNoise) * seconds / x[i]);
  level_ = std::min(level_, 4 * seconds);
  widen(x);
  if (slow_ == kChanged) forget(x);

  const double expected = this->seconds(load);
  Terms toward{};  // doubt_ * x
  double variance = std::pow(kNoise * seconds, 2);
  for (std::size_t i = 0; i < kTerms; ++i) {
    for (std::size_t j = 0; j < kTerms; ++j) toward[i] += doubt_[i][j] * x[j];
    variance += toward[i] * x[i];
  }
  double miss = seconds - expected;
  const double far = kFarOff * std::sqrt(variance);
  slow_ = miss > far ? slow_ + 1 : 0;
  miss = std::min(miss, far);
  if (expected > 0) spread_ += 0.05 * (std::min(0.5, std::abs(miss) / expected) - spread_);
  level_ += 0.1 * (expected + miss - level_);

  for (std::size_t i = 0; i < kTerms; ++i)
    for (std::size_t j = 0; j < kTerms; ++j) doubt_[i][j] -= toward[i] * toward[j] / variance;
  for (std::size_t i = 0; i < kTerms; ++i) {
    cost_[i] += toward[i] / variance * miss;
    if (cost_[i] >= 0) continue;
    doubt_[i][i] += cost_[i] * cost_[i];  // nothing costs less than nothing: so much was wrong
    cost_[i] = 0;
  }
}

int StepCost::rows_within(const StepLoad& others, int first, double seconds) const {
  // n rows read n * (first + n / 2) keys.
  const double key = cost_[3] / kKeys, row = cost_[1] / kRows + key * first;
  const double left = seconds / (1 + spread_) - this->seconds(others);
  const double most = kReachFurther * reach_;
  if (left <= 0) return 0;
  const double slope = row + std::sqrt(row * row + 2 * key * left);
  return static_cast<int>(slope * most <= 2 * left ? most : 2 * left / slope);
}

}  // namespace ashlar::engine
