// How far budgets are spent, by the rows of usage: what counters are told at start.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "gateway/limits/rules.h"
#include "gateway/limits/usage_record.h"
#include "store/counters.h"
#include "store/database.h"

namespace ashlar::gateway {

// Of each budget, in the window that is open at `utc_ms`, for everybody who has spent of it; with what is `unwritten`,
// which the database does not have. Errors as Database::query().
Result<std::vector<store::Spent>> budgets_spent(const LimitsConfig& config, store::Database& database,
                                                std::int64_t utc_ms, std::span<const UsageRecord> unwritten = {});

}  // namespace ashlar::gateway
