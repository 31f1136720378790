// What is kept of rollouts: where each stands, and how each version that was tried ended.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/database.h"
#include "store/migrations.h"

namespace ashlar::gateway {

struct RolloutRow {
  std::string route, version, state;
  std::int64_t step = 0, since_ms = 0;
  std::string why;
  std::string baseline;       // Samples::json()
  std::int64_t revision = 0;  // counts changes: who changes it says which it has seen
};

// (route, version) to "promoted" or "rolled_back", and why.
struct RolloutOutcome {
  std::string outcome, why;
};
using RolloutOutcomes = std::map<std::pair<std::string, std::string>, RolloutOutcome>;

const store::Schema& rollout_schema();

// As Database says.
Result<std::vector<RolloutRow>> read_rollouts(store::Database& database);
Result<RolloutOutcomes> read_rollout_outcomes(store::Database& database);
// The row, where it has no later revision; and the version's outcome, which a state that is none forgets.
// exhausted: another server wrote a later one.
Status write_rollout(store::Database& database, const RolloutRow& row);

}  // namespace ashlar::gateway
