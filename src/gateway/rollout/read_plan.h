// The members `rollout` and `shadow` of a route in the configuration file:
//
//   rollout:
//     to: fast/qwen3-8b                    # a served model, or as a deployment is written
//     version: "2"                         # left out: the model's name
//     steps: [1%, 5%, 25%, 50%, 100%]
//     hold: 5m
//     minimum_requests: 50
//     sticky: true
//     gates: {error_rate: +1%, ttft_p95: 1.5x, itl_p95: 1.5x, score: -0.05}   # or `off`
//     judge: {model: fast/judge, share: 10%, most_per_hour: 600}   # says how good answers are, for the gate `score`
//     on_finish: promote                   # or wait
//     begin: automatic                     # or manual
//   shadow: {to: fast/qwen3-14b, share: 10%, compare: true, keep_texts: false, concurrency: 4}
#pragma once

#include <functional>

#include "gateway/rollout/plan.h"
#include "gateway/section.h"

namespace ashlar::gateway {

// What is wrong is the section's to tell. `to` reads the member of that name, and says where it leads.
RolloutPlan read_rollout(Section& section, const YAML::Node& node, const Section::Read& to);
ShadowPlan read_shadow(Section& section, const YAML::Node& node);

}  // namespace ashlar::gateway
