// What happened to the server that an operator wants to know of later: a breaker that
// opened, a configuration that was applied or refused, a rollout's step, a key that was
// blocked, and what was done about it.
#pragma once

#include <cstdint>
#include <string>

#include "base/json_full.h"  // by value

namespace ashlar::gateway {

enum class Severity : std::uint8_t { info, warning, error };

struct OperatorEvent {
  std::string kind;     // AREA.WHAT, "breaker.opened", "config.applied", "rollout.rolled_back"
  std::string subject;  // whom it happened to: a deployment, a route, a key's id
  Severity severity = Severity::info;
  std::string message;  // a sentence for people
  std::string actor;    // the key that asked for it; "": the server by itself
  Json details = Json::object();
  std::int64_t at_ms = 0;  // since 1970 UTC; 0: now
};

class EventLog {
 public:
  virtual ~EventLog() = default;
  // Any thread; never waits. What cannot be kept is at least logged.
  virtual void write(OperatorEvent event) = 0;
};

}  // namespace ashlar::gateway
