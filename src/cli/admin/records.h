// Keys, teams and budgets as JSON, the same for the commands' --json and for the admin API.
#pragma once

#include <string>
#include <string_view>

#include "base/json_full.h"
#include "gateway/identity/key_store.h"
#include "gateway/identity/team_store.h"
#include "gateway/limits/budget_store.h"
#include "store/usage.h"

namespace ashlar::cli {

std::string_view state_of(const gateway::KeyRecord& key);  // "active", "blocked", "expired"
Json json_of(const gateway::KeyRecord& key);
Json json_of(const gateway::TeamRecord& team);
Json json_of(const gateway::KeptBudget& budget);
// Of `by`'s dimensions.
Json json_of(const store::UsageSum& sum, const std::vector<std::string>& by);

// What a client wishes of a key, over what `record` has: the members of kKeyWishes. invalid.
Status read_wishes(const Json& body, gateway::KeyRecord& record);
Status read_wishes(const Json& body, gateway::TeamRecord& record);
// Its name, dollars and alerts.
Status read_wishes(const Json& body, gateway::KeptBudget& budget);

// Dollars as people write them, of a text or a JSON number, in nano-dollars. invalid.
Result<std::int64_t> read_dollars(const Json& value);

}  // namespace ashlar::cli
