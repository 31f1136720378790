// How far budgets are spent, by the rows of usage: what counters are told at start.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/limits/rules.h"
#include "gateway/limits/usage_record.h"
#include "store/counters.h"
#include "store/database.h"

namespace ashlar::gateway {

// Somebody who has spent of a budget, in its window that is open.
struct Spender {
  const Rule* rule = nullptr;  // lives as long as the configuration
  std::string who;             // as a person reads it: "team 'search'"
  store::Spent spent;
};
// Which rows count.
struct SpentRows {
  std::span<const UsageRecord> unwritten = {};  // besides those of the database, which does not have these
  std::vector<std::string> except = {};         // ids of rows of the database that do not
  std::int64_t until_ms = std::numeric_limits<std::int64_t>::max();  // only requests that began before
};
// Of each budget everybody who has spent of it by `utc_ms`. Errors as Database::query().
Result<std::vector<Spender>> spenders(const LimitsConfig& config, store::Database& database, std::int64_t utc_ms,
                                      const SpentRows& rows = {});

// The same for counters.
Result<std::vector<store::Spent>> budgets_spent(const LimitsConfig& config, store::Database& database,
                                                std::int64_t utc_ms, const SpentRows& rows = {});

// What rows of usage call those whom a rule counts, for sum_usage(): the model first. And who that is.
std::vector<std::string> dimensions_of(const Rule& rule);
Subject subject_in_rows(const std::vector<std::string>& dimensions, const std::vector<std::string>& values);

}  // namespace ashlar::gateway
