// Whether a version on trial does worse than the stable one: surely, surely not, or nobody knows yet.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "gateway/rollout/plan.h"
#include "gateway/rollout/samples.h"

namespace ashlar::gateway {

struct GateVerdict {
  enum class State { passes, undecided, fails } state = State::undecided;
  std::string gate;
  std::string why;  // a sentence with the figures
  double canary = 0, stable = 0, limit = 0;
};

// Each gate is looked at after every request, so a fixed threshold would be crossed by chance sooner or later. Errors
// and slow answers are therefore tested as bets against "at most so many" (a mixture of likelihood ratios, which is a
// martingale under it): by Ville's inequality the chance that a version as good as its limit ever fails one is below
// kFalseAlarm, however often it is looked at. A gate passes when the figures as they are lie within its limit and
// there are enough of them.
inline constexpr double kFalseAlarm = 0.0005;  // of one gate at one step

// `more_to_come`: the stable one still gets requests. Else what it has must do, and where that is too little to
// compare, a gate passes when there are enough figures of the other.
std::vector<GateVerdict> judge(const RolloutPlan& plan, const Samples& canary, const Samples& stable,
                               bool more_to_come);

// The bet: how much more likely `hits` of `tries` are if their true share is somewhere above `at_most` than if it is
// just that. Exposed to be tested.
double evidence_above(std::int64_t hits, std::int64_t tries, double at_most);
// The upper end of Wilson's interval.
double upper_share(std::int64_t hits, std::int64_t tries, double z);

Json json_of(const GateVerdict& verdict);

}  // namespace ashlar::gateway
