#include "gateway/identity/team_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "gateway/identity/rows.h"
#include "store/migrations.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostMembers = 10'000, kMostModels = 1'000, kMostTeams = 100'000;
constexpr int kTries = 5;

const store::Schema kSchema{
    .room = "teams",
    .steps = {{"CREATE TABLE teams (name TEXT PRIMARY KEY, tenant TEXT NOT NULL, description TEXT NOT NULL, members "
               "TEXT NOT NULL, models TEXT NOT NULL, blocked BIGINT NOT NULL, created_at BIGINT NOT NULL, version "
               "BIGINT NOT NULL)"}}};

constexpr std::string_view kSelect =
    "SELECT name, tenant, description, members, models, blocked, created_at, version FROM teams";

TeamRecord read_team(const store::Values& row) {
  return {.name = store::as_text(row[0]),
          .tenant = store::as_text(row[1]),
          .description = store::as_text(row[2]),
          .members = read_list(row[3]),
          .models = read_list(row[4]),
          .blocked = store::as_int(row[5]) != 0,
          .created_at = store::as_int(row[6])};
}

Error no_team(std::string_view name) {
  return {Code::not_found, fmt::format("no team is called '{}'", name.substr(0, 128))};
}

}  // namespace

Result<std::unique_ptr<TeamStore>> TeamStore::open(store::Database& database,
                                                   std::function<std::int64_t()> unix_seconds) {
  TRY(KeyStore::open(database));  // whose generation tells of teams too
  TRY(store::migrate(database, std::span(&kSchema, 1)));
  return std::unique_ptr<TeamStore>(new TeamStore(database, std::move(unix_seconds)));
}

Status TeamStore::check(const TeamRecord& record) {
  TRY(check_name(record.name, "the team's name"));
  if (!record.tenant.empty()) TRY(check_tenant(record.tenant, "the tenant"));
  if (!record.description.empty()) TRY(check_name(record.description, "the description"));
  if (record.members.size() > kMostMembers || record.models.size() > kMostModels)
    return Error{Code::invalid, fmt::format("a team has at most {} members and {} models", kMostMembers, kMostModels)};
  for (const std::string& model : record.models) TRY(check_name(model, "a model's pattern"));
  for (const std::string& member : record.members) TRY(check_name(member, "a member"));
  std::vector<std::string> sorted = record.members;
  std::ranges::sort(sorted);
  if (std::ranges::adjacent_find(sorted) != sorted.end())
    return Error{Code::invalid, "the same user is twice among the members"};
  if (record.members.empty()) return {};
  for (const TeamRecord& other : TRY(list())) {
    if (other.name == record.name) continue;
    for (const std::string& member : other.members)
      if (std::ranges::binary_search(sorted, member))
        return Error{Code::invalid, fmt::format("the user '{}' is a member of the team '{}'", member, other.name)};
  }
  return {};
}

Result<TeamRecord> TeamStore::create(TeamRecord record) {
  TRY(check(record));
  record.created_at = unix_seconds_();
  TRY(database_.transact(
      {{.sql = "INSERT INTO teams (name, tenant, description, members, models, blocked, created_at, version) SELECT "
               "CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS "
               "BIGINT), CAST(? AS BIGINT), 1 WHERE (SELECT count(*) FROM teams) < ? ON CONFLICT (name) DO NOTHING",
        .args = {record.name, record.tenant, record.description, list_json(record.members), list_json(record.models),
                 std::int64_t{record.blocked}, record.created_at, static_cast<std::int64_t>(kMostTeams)},
        .if_unchanged = Error{Code::invalid, fmt::format("there is a team '{}' already", record.name)}},
       next_keys_generation()}));
  return record;
}

Result<TeamRecord> TeamStore::change(std::string_view name, const std::function<Status(TeamRecord&)>& edit) {
  for (int i = 0;; ++i) {
    const auto rows = TRY(database_.query(fmt::format("{} WHERE name = ?", kSelect), {std::string(name)}));
    if (rows.rows.empty()) return no_team(name);
    TeamRecord record = read_team(rows.rows.front());
    TRY(edit(record));
    record.name = name;
    TRY(check(record));
    // On the version that was read: of two changes at once, neither is lost.
    const auto written = database_.transact(
        {{.sql =
              "UPDATE teams SET tenant = ?, description = ?, members = ?, models = ?, blocked = ?, version = version "
              "+ 1 WHERE name = ? AND version = ?",
          .args = {record.tenant, record.description, list_json(record.members), list_json(record.models),
                   std::int64_t{record.blocked}, record.name, store::as_int(rows.rows.front()[7])},
          .if_unchanged = Error{Code::cancelled, fmt::format("the team '{}' is being changed by others", record.name)}},
         next_keys_generation()});
    if (written) return record;
    if (written.error().code != Code::cancelled || i == kTries) return std::unexpected(written.error());
  }
}

Status TeamStore::remove(std::string_view name) {
  TRY(database_.transact(
      {{.sql = "DELETE FROM teams WHERE name = ?", .args = {std::string(name)}, .if_unchanged = no_team(name)},
       next_keys_generation()}));
  return {};
}

Result<TeamRecord> TeamStore::find(std::string_view name) {
  const auto rows = TRY(database_.query(fmt::format("{} WHERE name = ?", kSelect), {std::string(name)}));
  if (rows.rows.empty()) return no_team(name);
  return read_team(rows.rows.front());
}

Result<std::vector<TeamRecord>> TeamStore::list() {
  std::vector<TeamRecord> out;
  for (const auto& row : TRY(database_.query(fmt::format("{} ORDER BY name", kSelect))).rows)
    out.push_back(read_team(row));
  return out;
}

}  // namespace ashlar::gateway
