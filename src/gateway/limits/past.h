// Who used how much of the rates, by the rows of usage: what counters of this process are told at start, so that a
// restart is no way to have a limit twice.
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

// Of each bucket and sliding window that somebody used of lately; `unwritten` besides the rows of the database. Times
// are as exact as a window's slots are, and never too early. Errors as Database::query().
Result<std::vector<store::Past>> rates_used(const LimitsConfig& config, store::Database& database, std::int64_t utc_ms,
                                            std::span<const UsageRecord> unwritten = {});

}  // namespace ashlar::gateway
