// Rollouts and shadows over the admin API.
#pragma once

#include <vector>

#include "api/admin.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"

namespace ashlar::cli {

// GET /admin/v1/rollouts, and what may be done to each. Both outlive the operations; null: they
// are listed all the same.
std::vector<api::AdminOperation> rollout_operations(gateway::Rollouts* rollouts, const gateway::Shadows* shadows);

}  // namespace ashlar::cli
