#include "store/usage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "base/json_full.h"
#include "base/utf8.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kLongestName = 512, kMostTags = 32, kLongestTag = 64;
constexpr std::int64_t kPage = 2'000;
constexpr std::int64_t kDay = 86'400'000;

bool in_tag_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
}

Status check(const UsageRow& row) {
  if (row.id.empty() || row.id.size() > kLongestName)
    return Error{Code::invalid, fmt::format("usage: a row's id has 1 to {} bytes", kLongestName)};
  for (const std::int64_t each : {row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens,
                                  row.cache_write_tokens, row.cost_nano, row.duration_ms, row.ttft_ms.value_or(0)})
    if (each < 0) return Error{Code::invalid, "usage: a count below zero"};
  return {};
}

// Names come with requests: a strange one must not cost the row.
std::string clean(std::string text) {
  const bool plain =
      text.size() <= kLongestName && std::ranges::all_of(text, [](char c) { return c != '\0' && (c & 0x80) == 0; });
  if (plain) return text;
  std::string out;
  for (const char c : utf8::sanitize(text)) {
    if (c == '\0')
      utf8::append(out, 0xFFFD);
    else
      out += c;
  }
  out.resize(utf8::complete_prefix(std::string_view(out).substr(0, kLongestName)));
  return out;
}

std::string tags_text(const UsageRow& row) {
  if (row.tags.empty()) return "{}";
  Json tags = Json::object();
  for (const auto& [name, value] : row.tags) {
    if (tags.size() == kMostTags) break;
    const std::string key = tag_in_rows(name);
    if (!key.empty()) tags[key] = clean(value);
  }
  return dump_json(tags);
}

// SQL for a dimension, with the argument that it takes, if any.
struct Dimension {
  std::string sql;
  Values args;
};
Result<Dimension> dimension(std::string_view name, Dialect dialect) {
  constexpr std::pair<std::string_view, std::string_view> kColumns[] = {{"tenant", "tenant"},
                                                                        {"team", "team"},
                                                                        {"user", "user_id"},
                                                                        {"key", "key_id"},
                                                                        {"model", "model"},
                                                                        {"deployment", "deployment"},
                                                                        {"request", "request_id"},
                                                                        {"status", "CAST(status AS TEXT)"},
                                                                        {"day", "CAST(at / 86400000 AS TEXT)"}};
  for (const auto& [known, sql] : kColumns)
    if (name == known) return Dimension{.sql = std::string(sql)};
  constexpr std::string_view kTag = "tag:";
  if (name.starts_with(kTag) && name.size() > kTag.size()) {
    const std::string tag = tag_in_rows(name.substr(kTag.size()));
    if (dialect == Dialect::postgres) return Dimension{.sql = "COALESCE(CAST(tags AS json) ->> ?, '')", .args = {tag}};
    return Dimension{.sql = "COALESCE(json_extract(tags, ?), '')", .args = {fmt::format("$.\"{}\"", tag)}};
  }
  return Error{Code::invalid,
               fmt::format("usage is summed by tenant, team, user, key, model, deployment, request, status, day or "
                           "tag:NAME, not by '{}'",
                           name.substr(0, 64))};
}

// "WHERE ...", whose arguments are added to `args`.
Result<std::string> condition(const UsageFilter& filter, Dialect dialect, Values& args) {
  std::string sql = "WHERE at >= ? AND at < ?";
  args.insert(args.end(), {filter.since_ms, filter.until_ms});
  for (const auto& [name, value] : filter.where) {
    const Dimension each = TRY(dimension(name, dialect));
    sql += fmt::format(" AND {} = ?", each.sql);
    args.insert(args.end(), each.args.begin(), each.args.end());
    args.emplace_back(value);
  }
  if (!filter.except.empty()) {  // one argument, however many there are
    sql += dialect == Dialect::postgres ? " AND id NOT IN (SELECT json_array_elements_text(CAST(? AS json)))"
                                        : " AND id NOT IN (SELECT value FROM json_each(?))";
    args.emplace_back(dump_json(Json(filter.except)));
  }
  return sql;
}

// Of the first two versions; what came later stands behind them.
constexpr std::string_view kFirstColumns =
    "id, at, tenant, team, user_id, key_id, model, deployment, tags, prompt_tokens, cached_tokens, completion_tokens, "
    "reasoning_tokens, cost_nano, status, ttft_ms, duration_ms";
constexpr std::string_view kColumns =
    "id, at, tenant, team, user_id, key_id, model, deployment, tags, prompt_tokens, cached_tokens, completion_tokens, "
    "reasoning_tokens, cost_nano, status, ttft_ms, duration_ms, cache_write_tokens, request_id";

UsageRow row_of(const Values& v) {
  UsageRow row{.id = as_text(v.at(0)),
               .at_ms = as_int(v.at(1)),
               .tenant = as_text(v.at(2)),
               .team = as_text(v.at(3)),
               .user = as_text(v.at(4)),
               .key = as_text(v.at(5)),
               .model = as_text(v.at(6)),
               .deployment = as_text(v.at(7)),
               .prompt_tokens = as_int(v.at(9)),
               .cached_tokens = as_int(v.at(10)),
               .cache_write_tokens = as_int(v.at(17)),
               .completion_tokens = as_int(v.at(11)),
               .reasoning_tokens = as_int(v.at(12)),
               .cost_nano = as_int(v.at(13)),
               .status = as_int(v.at(14)),
               .duration_ms = as_int(v.at(16)),
               .request_id = as_text(v.at(18))};
  if (!is_null(v.at(15))) row.ttft_ms = as_int(v.at(15));
  if (const auto tags = parse_json(as_text(v.at(8))); tags && tags->is_object())
    for (const auto& [name, value] : tags->items())
      if (value.is_string()) row.tags.emplace_back(name, value.get<std::string>());
  return row;
}

// What a sum is grouped by, as people write it.
std::string shown(std::string_view name, const std::string& text) {
  if (name != "day") return text;
  return utc_text_of_ms(std::strtoll(text.c_str(), nullptr, 10) * kDay).substr(0, 10);
}

}  // namespace

const Schema& usage_schema() {
  static const Schema schema{
      .room = "usage",
      .steps = {
          {"CREATE TABLE usage_rows (id TEXT PRIMARY KEY, at BIGINT NOT NULL, tenant TEXT NOT NULL, team TEXT NOT "
           "NULL, user_id TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL, deployment TEXT NOT NULL, tags "
           "TEXT NOT NULL, prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, completion_tokens BIGINT "
           "NOT NULL, reasoning_tokens BIGINT NOT NULL, cost_nano BIGINT NOT NULL, status BIGINT NOT NULL, ttft_ms "
           "BIGINT, duration_ms BIGINT NOT NULL)",
           "CREATE INDEX usage_rows_at ON usage_rows (at, id)"},
          // One index, in the order of time, as rows come: the newest page alone is written to.
          {"ALTER TABLE usage_rows RENAME TO usage_rows_by_id",
           "CREATE TABLE usage_rows (id TEXT NOT NULL, at BIGINT NOT NULL, tenant TEXT NOT NULL, team TEXT NOT NULL, "
           "user_id TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL, deployment TEXT NOT NULL, tags TEXT NOT "
           "NULL, prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, "
           "reasoning_tokens BIGINT NOT NULL, cost_nano BIGINT NOT NULL, status BIGINT NOT NULL, ttft_ms BIGINT, "
           "duration_ms BIGINT NOT NULL, PRIMARY KEY (at, id))",
           fmt::format("INSERT INTO usage_rows ({0}) SELECT {0} FROM usage_rows_by_id ORDER BY at, id", kFirstColumns),
           "DROP TABLE usage_rows_by_id"},
          // With what a program that knows less leaves out: it goes on beside one that knows them.
          {"ALTER TABLE usage_rows ADD COLUMN cache_write_tokens BIGINT NOT NULL DEFAULT 0",
           "ALTER TABLE usage_rows ADD COLUMN request_id TEXT NOT NULL DEFAULT ''"}}};
  return schema;
}

std::string tag_in_rows(std::string_view name) {
  std::string out(name.substr(0, kLongestTag));
  std::ranges::replace_if(out, [](char c) { return !in_tag_name(c); }, '_');
  return out;
}

Result<Statement> usage_insert(UsageRow row) {
  TRY(check(row));
  static const std::string kInsert = fmt::format(
      "INSERT INTO usage_rows ({}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (at, "
      "id) DO NOTHING",
      kColumns);
  Statement insert{.sql = kInsert, .args = {}};
  const auto add = [&](auto&&... values) {
    insert.args.reserve(sizeof...(values));
    (insert.args.emplace_back(std::forward<decltype(values)>(values)), ...);
  };
  std::string tags = tags_text(row);
  add(std::move(row.id), row.at_ms, clean(std::move(row.tenant)), clean(std::move(row.team)),
      clean(std::move(row.user)), clean(std::move(row.key)), clean(std::move(row.model)),
      clean(std::move(row.deployment)), std::move(tags), row.prompt_tokens, row.cached_tokens, row.completion_tokens,
      row.reasoning_tokens, row.cost_nano, row.status, row.ttft_ms ? Value(*row.ttft_ms) : Value(), row.duration_ms,
      row.cache_write_tokens, clean(std::move(row.request_id)));
  return insert;
}

Status record_usage(Database& database, UsageRow row, std::function<void(Status)> done) {
  std::vector<Statement> list;
  list.push_back(TRY(usage_insert(std::move(row))));
  return database.write_later(std::move(list), [done = std::move(done)](const Database::Written& written) {
    if (done) done(written ? Status() : Status(written.error()));
  });
}

Result<std::vector<UsageSum>> sum_usage(Database& database, const UsageFilter& filter,
                                        const std::vector<std::string>& by) {
  std::string names, numbers;
  Values args;
  for (std::size_t i = 0; i < by.size(); ++i) {
    Dimension each = TRY(dimension(by[i], database.dialect()));
    names += each.sql + ", ";
    numbers += fmt::format("{}{}", i == 0 ? "GROUP BY " : ", ", i + 1);
    std::ranges::move(each.args, std::back_inserter(args));
  }
  const std::string where = TRY(condition(filter, database.dialect(), args));
  const Rows rows = TRY(database.query(
      fmt::format(
          "SELECT {}count(*), sum(CASE WHEN status >= 400 THEN 1 ELSE 0 END), sum(prompt_tokens), "
          "sum(cached_tokens), sum(cache_write_tokens), sum(completion_tokens), sum(reasoning_tokens), sum(cost_nano) "
          "FROM usage_rows {} {}",
          names, where, numbers),
      std::move(args)));
  std::vector<UsageSum> sums;
  for (const Values& row : rows.rows) {
    UsageSum& sum = sums.emplace_back();
    for (std::size_t i = 0; i < by.size(); ++i) sum.by.push_back(shown(by[i], as_text(row.at(i))));
    std::size_t at = by.size();
    for (std::int64_t* const each :
         {&sum.requests, &sum.failed, &sum.prompt_tokens, &sum.cached_tokens, &sum.cache_write_tokens,
          &sum.completion_tokens, &sum.reasoning_tokens, &sum.cost_nano})
      *each = as_int(row.at(at++));
  }
  const bool by_time = !by.empty() && by[0] == "day";
  std::ranges::sort(sums, [by_time](const UsageSum& a, const UsageSum& b) {
    if (by_time) return a.by < b.by;
    if (a.cost_nano != b.cost_nano) return a.cost_nano > b.cost_nano;
    if (a.requests != b.requests) return a.requests > b.requests;
    return a.by < b.by;
  });
  return sums;
}

Result<std::vector<UsageSlot>> usage_in_slots(Database& database, const UsageFilter& filter,
                                              const std::vector<std::string>& by, std::int64_t slot_ms) {
  if (slot_ms < 1) return Error{Code::invalid, "usage: a slot of time is at least a millisecond"};
  std::string names, places;
  Values args;
  for (std::size_t i = 0; i < by.size(); ++i) {
    Dimension each = TRY(dimension(by[i], database.dialect()));
    names += each.sql + ", ";
    places += fmt::format("{}, ", i + 1);
    std::ranges::move(each.args, std::back_inserter(args));
  }
  const std::string where = TRY(condition(filter, database.dialect(), args));
  places += fmt::format("{}", by.size() + 1);
  const Rows rows = TRY(database.query(
      fmt::format("SELECT {}at / {}, count(*), sum(CASE WHEN tags LIKE '{{\"cache\":\"hit\"%' THEN 0 ELSE "
                  "prompt_tokens + completion_tokens END) FROM usage_rows {} AND "
                  "prompt_tokens + completion_tokens > 0 GROUP BY {} ORDER BY {}",
                  names, slot_ms, where, places, places),
      std::move(args)));
  std::vector<UsageSlot> out;
  for (const Values& row : rows.rows) {
    UsageSlot& slot = out.emplace_back();
    for (std::size_t i = 0; i < by.size(); ++i) slot.by.push_back(shown(by[i], as_text(row.at(i))));
    slot.slot = as_int(row.at(by.size()));
    slot.requests = as_int(row.at(by.size() + 1));
    slot.tokens = as_int(row.at(by.size() + 2));
  }
  return out;
}

Status each_usage(Database& database, const UsageFilter& filter, const std::function<Status(const UsageRow&)>& visit) {
  Values args;
  const std::string where = TRY(condition(filter, database.dialect(), args));
  std::int64_t last_at = std::numeric_limits<std::int64_t>::min();
  std::string last_id;
  while (true) {
    Values page = args;
    page.insert(page.end(), {last_at, last_id, kPage});
    const Rows rows = TRY(database.query(
        fmt::format("SELECT {} FROM usage_rows {} AND (at, id) > (?, ?) ORDER BY at, id LIMIT ?", kColumns, where),
        std::move(page)));
    if (rows.rows.empty()) return {};
    for (const Values& values : rows.rows) {
      const UsageRow row = row_of(values);
      last_at = row.at_ms;
      last_id = row.id;
      TRY(visit(row));
    }
  }
}

}  // namespace ashlar::store
