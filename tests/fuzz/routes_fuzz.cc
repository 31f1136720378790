// The section `routes` of a configuration, with the plans of rollouts and shadows in it: whatever is accepted holds
// together, whatever is refused says why, with its line.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "gateway/routing/read_routes.h"
#include "gateway/routing/router.h"

namespace {

using namespace ashlar::gateway;

void check(const RolloutPlan& plan) {
  double before = 0;
  for (const double share : plan.steps) {
    if (!(share > before && share <= 1)) std::abort();
    before = share;
  }
  if (plan.steps.empty() || plan.to.empty() || plan.hold.count() < 0 || plan.minimum_requests < 0) std::abort();
  for (const LatencyGate& gate : plan.gates.latencies)
    if (!(gate.quantile > 0 && gate.quantile < 1) || !(gate.ratio > 0)) std::abort();
  if (plan.gates.error_rate && !(*plan.gates.error_rate >= 0 && *plan.gates.error_rate <= 1)) std::abort();
  if (plan.gates.score && !(*plan.gates.score >= 0 && *plan.gates.score <= 1)) std::abort();
}

void check(const ShadowPlan& plan) {
  if (plan.to.empty() || !(plan.share > 0 && plan.share <= 1) || plan.concurrency < 1) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto table = parse_routes(std::string(reinterpret_cast<const char*>(data), size), "f.yaml");
  if (!table) {
    if (!table.error().message.starts_with("f.yaml:")) std::abort();
    return 0;
  }
  if (!check_table(*table)) std::abort();
  for (const Group& group : table->groups) {
    if (group.name.empty()) std::abort();
    if (group.rollout) check(*group.rollout);
    if (group.shadow) check(*group.shadow);
  }
  return 0;
}
