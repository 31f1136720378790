// What is said of rollouts in more than one place.
#pragma once

#include <fmt/format.h>

#include <string>

#include "gateway/rollout/rollouts.h"

namespace ashlar::gateway {

inline std::string percent(double share) { return fmt::format("{:.4g} %", 100 * share); }

inline Error no_rollout(const std::string& route) {
  return {Code::not_found, fmt::format("the route '{}' has no rollout", route)};
}

}  // namespace ashlar::gateway
