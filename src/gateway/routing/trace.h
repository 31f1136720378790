// What became of a request: where it might have gone, where it went, and why. For a header, the log and the trace.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

struct RouteTry {
  std::string deployment, group, label;
  std::string outcome;         // "ok", "refused", "failed", "timeout", "garbage", "cancelled"; empty: under way
  std::optional<Cause> cause;  // where it was not ok
  std::string code, detail;
  double milliseconds = 0;
};

// A score and the parts that it is the sum of.
struct ScoreParts {
  double score = 0;
  std::vector<std::pair<std::string, double>> parts;
};

struct RouteTrace {
  std::string id, tenant, model;  // as asked
  std::string group, strategy;    // that answered last
  std::string tier;               // "low", "middle", "high", where the group has tiers
  std::optional<ScoreParts> complexity;
  std::string cache;   // "", "hit", "stale", "joined", "miss"
  std::string choice;  // why that deployment: "session", "ring", "spilled", "least", ...
  int cached = -1;     // tokens of the prompt that it was expected to have, where it was chosen for them; else -1
  double waited_milliseconds = 0;
  std::vector<RouteTry> tries;

  // The deployment that answers; empty: none, or the cache.
  std::string answered_by() const;
  Json json() const;
  // The same way, of the request `own` that joined this one.
  RouteTrace joined_by(std::string own) const;
  // One line of printable ASCII without error texts: "group=chat strategy=latency tries=a:failed/unavailable,b:ok".
  std::string header() const;
};

}  // namespace ashlar::gateway
