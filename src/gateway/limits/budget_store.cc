#include "gateway/limits/budget_store.h"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "base/json_full.h"
#include "gateway/identity/principal.h"
#include "store/migrations.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kWindows[] = {"total", "hour", "day", "month"};
constexpr LimitScope kScopes[] = {LimitScope::key, LimitScope::user, LimitScope::team, LimitScope::tenant};
constexpr int kTries = 5;

const store::Schema kSchema{
    .room = "budgets",
    .steps = {{"CREATE TABLE budgets (serial $IDENTITY, id TEXT NOT NULL UNIQUE, scope TEXT NOT NULL, who TEXT NOT "
               "NULL, name TEXT NOT NULL, capacity BIGINT NOT NULL, calendar TEXT NOT NULL, alerts TEXT NOT NULL, "
               "created_at BIGINT NOT NULL, version BIGINT NOT NULL, UNIQUE (scope, who, name))",
               "CREATE TABLE budgets_generation (one BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
               "INSERT INTO budgets_generation (one, value) VALUES (1, 0)"},
              {"ALTER TABLE budgets ADD COLUMN soft BIGINT NOT NULL DEFAULT 0"}}};

constexpr std::string_view kSelect =
    "SELECT id, scope, who, name, capacity, calendar, alerts, created_at, version, soft FROM budgets";

// Random, so that a restored copy of the database shows as a change too.
store::Statement next_generation() {
  std::int64_t value = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&value), sizeof value);
  return {.sql = "UPDATE budgets_generation SET value = ? WHERE one = 1", .args = {value & INT64_MAX}};
}

std::string new_id() {
  unsigned char bytes[8];
  RAND_bytes(bytes, sizeof bytes);
  return fmt::format("budget-{:02x}", fmt::join(bytes, ""));
}

std::string alerts_json(const std::vector<int>& alerts) { return dump_json(Json(alerts)); }

Result<KeptBudget> read_budget(const store::Values& row) {
  KeptBudget out{.id = store::as_text(row[0]),
                 .who = store::as_text(row[2]),
                 .name = store::as_text(row[3]),
                 .capacity = store::as_int(row[4]),
                 .soft = store::as_int(row[9]) != 0,
                 .created_at = store::as_int(row[7])};
  const auto scope = std::ranges::find(kScopes, store::as_text(row[1]), [](LimitScope s) { return name(s); });
  if (scope == std::end(kScopes))
    return Error{Code::corrupt, fmt::format("the budget {} is for nobody that there can be", out.id)};
  out.scope = *scope;
  out.window = TRY(parse_window(store::as_text(row[5])));
  if (const auto alerts = parse_json(store::as_text(row[6])); alerts && alerts->is_array())
    for (const Json& each : *alerts)
      if (each.is_number_integer()) out.alerts.push_back(each.get<int>());
  return out;
}

// What is right; made so where it says too little.
Status complete(KeptBudget& budget) {
  if (budget.soft && budget.alerts.empty()) budget.alerts = {100};
  if (std::ranges::find(kScopes, budget.scope) == std::end(kScopes))
    return Error{Code::invalid, "a budget is for a key, a user, a team or a tenant"};
  TRY(check_name(budget.who, "whom a budget is for"));
  if (budget.alerts.size() > 20) return Error{Code::invalid, "a budget has at most 20 alerts"};
  return check_rule(rule_of(budget));
}

Error taken(const KeptBudget& budget) {
  return {Code::invalid, fmt::format("the {} '{}' has a budget '{}' already, or {} of them, which is the most",
                                     name(budget.scope), budget.who, budget.name, kMostBudgetsOfOne)};
}

}  // namespace

Rule rule_of(const KeptBudget& budget) {
  return {.scope = budget.scope,
          .who = budget.who,
          .name = budget.name,
          .measure = Measure::money,
          .kind = store::LimitKind::budget,
          .capacity = budget.capacity,
          .calendar = budget.window,
          .alerts = budget.alerts,
          .soft = budget.soft,
          .id = budget.id};
}

std::string_view name(store::Calendar window) { return kWindows[static_cast<int>(window)]; }

Result<store::Calendar> parse_window(std::string_view name) {
  const auto found = std::ranges::find(kWindows, name);
  if (found == std::end(kWindows)) return Error{Code::invalid, "a window is hour, day, month or total"};
  return static_cast<store::Calendar>(found - std::begin(kWindows));
}

Result<std::unique_ptr<BudgetStore>> BudgetStore::open(store::Database& database) {
  TRY(store::migrate(database, std::span(&kSchema, 1)));
  return std::unique_ptr<BudgetStore>(new BudgetStore(database));
}

Result<KeptBudget> BudgetStore::create(KeptBudget budget) {
  budget.id = new_id();
  budget.created_at =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  TRY(complete(budget));
  const std::string scope(name(budget.scope));
  // Two at once may both find three before them; the charges of a request have room for that.
  TRY(database_.transact(
      {{.sql =
            "INSERT INTO budgets (id, scope, who, name, capacity, calendar, alerts, created_at, version, soft) "
            "SELECT CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS "
            "TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), 1, CAST(? AS BIGINT) WHERE (SELECT count(*) FROM budgets WHERE "
            "scope = ? AND "
            "who = ?) < ? ON CONFLICT (scope, who, name) DO NOTHING",
        .args = {budget.id, scope, budget.who, budget.name, budget.capacity, std::string(name(budget.window)),
                 alerts_json(budget.alerts), budget.created_at, std::int64_t{budget.soft}, scope, budget.who,
                 std::int64_t{kMostBudgetsOfOne}},
        .if_unchanged = taken(budget)},
       next_generation()}));
  return budget;
}

Result<KeptBudget> BudgetStore::change(std::string_view which, const std::function<Status(KeptBudget&)>& edit) {
  for (int i = 0;; ++i) {
    const KeptBudget before = TRY(find(which));
    const auto rows = TRY(database_.query("SELECT version FROM budgets WHERE id = ?", {before.id}));
    KeptBudget budget = before;
    TRY(edit(budget));
    budget.id = before.id, budget.scope = before.scope, budget.who = before.who, budget.window = before.window;
    TRY(complete(budget));
    const std::int64_t version = rows.rows.empty() ? 0 : store::as_int(rows.rows.front().front());
    // On what was read: of two changes at once, neither is lost.
    const auto written = database_.transact(
        {{.sql = "UPDATE budgets SET name = ?, capacity = ?, alerts = ?, soft = ?, version = version + 1 WHERE id = ? "
                 "AND version "
                 "= ? AND name = ? AND capacity = ?",
          .args = {budget.name, budget.capacity, alerts_json(budget.alerts), std::int64_t{budget.soft}, budget.id,
                   version, before.name, before.capacity},
          .if_unchanged = Error{Code::cancelled, fmt::format("the budget {} is being changed by others", budget.id)}},
         next_generation()});
    if (written) return budget;
    // The name is another's of this subject.
    if (written.error().code == Code::invalid) return taken(budget);
    if (written.error().code != Code::cancelled || i == kTries) return std::unexpected(written.error());
  }
}

Result<KeptBudget> BudgetStore::remove(std::string_view which) {
  KeptBudget budget = TRY(find(which));
  TRY(database_.transact(
      {{.sql = "DELETE FROM budgets WHERE id = ?",
        .args = {budget.id},
        .if_unchanged = Error{Code::not_found, fmt::format("the budget {} was deleted meanwhile", budget.id)}},
       next_generation()}));
  return budget;
}

Result<KeptBudget> BudgetStore::find(std::string_view which) {
  const std::string text(which.substr(0, 256));
  auto rows = TRY(database_.query(fmt::format("{} WHERE id = ?", kSelect), {text}));
  if (rows.rows.empty()) rows = TRY(database_.query(fmt::format("{} WHERE name = ? ORDER BY serial", kSelect), {text}));
  if (rows.rows.empty()) return Error{Code::not_found, fmt::format("no budget is called '{}'", text.substr(0, 128))};
  if (rows.rows.size() > 1)
    return Error{Code::invalid, fmt::format("{} budgets are called '{}': say which by its id, such as {}",
                                            rows.rows.size(), text, store::as_text(rows.rows.front()[0]))};
  return read_budget(rows.rows.front());
}

Result<std::vector<KeptBudget>> BudgetStore::list() {
  std::vector<KeptBudget> out;
  for (const auto& row : TRY(database_.query(fmt::format("{} ORDER BY serial", kSelect))).rows)
    out.push_back(TRY(read_budget(row)));
  return out;
}

Result<std::int64_t> BudgetStore::generation() {
  const auto rows = TRY(database_.query("SELECT value FROM budgets_generation WHERE one = 1"));
  return rows.rows.empty() ? 0 : store::as_int(rows.rows.front().front());
}

}  // namespace ashlar::gateway
