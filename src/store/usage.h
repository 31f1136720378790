// What each request used: one durable row each, for bills, for cost allocation and for
// whoever asks what a team spent. Money is in nano-dollars, times are milliseconds
// since 1970 UTC.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/database.h"
#include "store/migrations.h"

namespace ashlar::store {

struct UsageRow {
  std::string id;          // of the request
  std::int64_t at_ms = 0;  // when it began; the row of an id and a moment is written once, whoever sends it again
  std::string tenant, team, user, key, model, deployment;
  std::vector<std::pair<std::string, std::string>> tags;
  std::int64_t prompt_tokens = 0;  // with those that the cache had
  std::int64_t cached_tokens = 0;
  std::int64_t cache_write_tokens = 0;
  std::int64_t completion_tokens = 0;  // with those of reasoning
  std::int64_t reasoning_tokens = 0;
  std::int64_t cost_nano = 0;
  std::int64_t status = 200;  // as HTTP has it
  std::optional<std::int64_t> ttft_ms;
  std::int64_t duration_ms = 0;
  std::string request_id;  // the client's own; "": it gave none
};

// For migrate().
const Schema& usage_schema();

// What a tag of that name is called in a row: of at most 64 bytes, with _ for what is not A-Z a-z 0-9 _ . -
std::string tag_in_rows(std::string_view name);

// The statement that writes the row, for a list that settles a budget with it: an
// if_unchanged added to it refuses the list where that row is there already.
// No name costs a row: texts are cut at 512 bytes and made UTF-8, tags beyond 32 are left
// out, and what is not A-Z a-z 0-9 _ . - in a tag's name (64 bytes) becomes _.
// invalid: an id that is empty or over 512 bytes; a count below zero.
Result<Statement> usage_insert(UsageRow row);

// Database::write_later() of the row. A row that is there already is no error.
Status record_usage(Database& database, UsageRow row, std::function<void(Status)> done);

// [since, until), and only rows whose dimensions have these values.
struct UsageFilter {
  std::int64_t since_ms = std::numeric_limits<std::int64_t>::min();
  std::int64_t until_ms = std::numeric_limits<std::int64_t>::max();
  std::vector<std::pair<std::string, std::string>> where;
  std::vector<std::string> except;  // ids of rows that are left out
};

struct UsageSum {
  std::vector<std::string> by;            // one value for each dimension asked for; "": the rows that have none
  std::int64_t requests = 0, failed = 0;  // failed: status 400 and above
  std::int64_t prompt_tokens = 0, cached_tokens = 0, cache_write_tokens = 0, completion_tokens = 0,
               reasoning_tokens = 0;
  std::int64_t cost_nano = 0;
};

// The dearest first, or the oldest where `day` is the first dimension. A dimension is
// tenant, team, user, key, model, deployment, request (as the client calls it), status,
// day (UTC, 2026-11-21), or tag:NAME; none gives one sum of all.
// invalid: no such dimension; as Database::query().
Result<std::vector<UsageSum>> sum_usage(Database& database, const UsageFilter& filter,
                                        const std::vector<std::string>& by);

// Tokens (not of answers that a cache had) and requests of rows that used any, by the slots of time of `slot_ms`
// (counted from 1970) in which they began.
struct UsageSlot {
  std::vector<std::string> by;
  std::int64_t slot = 0, requests = 0, tokens = 0;
};
// In the order of `by`, then of time. Dimensions and errors as sum_usage().
Result<std::vector<UsageSlot>> usage_in_slots(Database& database, const UsageFilter& filter,
                                              const std::vector<std::string>& by, std::int64_t slot_ms);

// Every row, oldest first, a page at a time. Stops at the first error `visit` gives.
Status each_usage(Database& database, const UsageFilter& filter, const std::function<Status(const UsageRow&)>& visit);

// For export. A line each, with its newline; CSV is RFC 4180 with every text quoted.
// In quotes; what a spreadsheet would take for a formula, behind an apostrophe.
std::string csv_text(std::string_view text);
std::string usage_csv_header();
std::string usage_csv(const UsageRow& row);
std::string usage_json(const UsageRow& row);

// "2026-11-21T19:15:00.250Z".
std::string utc_text_of_ms(std::int64_t ms);
// "12.000000345": dollars, with as many digits as there are, at least two.
std::string dollars(std::int64_t nano);

}  // namespace ashlar::store
