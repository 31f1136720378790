// What is known of an upstream by its probes.
#pragma once

namespace ashlar::gateway {

// unknown: none was answered yet, and not as many have failed as make it down; or there are none. It is asked as if
// it were up.
enum class Standing { unknown, up, down };

constexpr const char* name(Standing standing) {
  return standing == Standing::unknown ? "unknown" : standing == Standing::up ? "up" : "down";
}

}  // namespace ashlar::gateway
