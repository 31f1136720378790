// The admin API's operations on budgets.
#include <fmt/format.h>

#include "cli/admin/admin.h"
#include "cli/admin/operation.h"
#include "cli/admin/records.h"

namespace ashlar::cli {
namespace {

using api::AdminCall;
using api::AdminOperation;
using api::Outcome;
using gateway::KeptBudget;
using gateway::LimitScope;
using gateway::Scope;

Json dollars_schema() {
  return {{"type", Json::array({"string", "number"})},
          {"description", "0 to 9,000,000, at most nine decimals; as a text it is exact"},
          {"maxLength", 32}};
}
Json alerts_schema() {
  return {{"type", "array"},
          {"items", whole(1, 1000)},
          {"maxItems", 20},
          {"description", "at which percentages somebody is told: to 100, of a soft budget to 1000"}};
}
Json soft_schema() { return {{"type", "boolean"}, {"description", "somebody is told, nobody refused"}}; }

Json budget_schema() {
  return object({{"id", {{"type", Json::array({"string", "null"})}, {"description", "null: it is the limits file's"}}},
                 {"name", {{"type", "string"}}},
                 {"scope", words({"key", "user", "team", "tenant", "model", "global", "tag"})},
                 {"who", {{"type", "string"}, {"description", "\"\": each one apart"}}},
                 {"window", words({"hour", "day", "month", "total"})},
                 {"dollars", {{"type", "string"}}},
                 {"capacity_nano_usd", {{"type", "integer"}}},
                 {"alerts", list_of({{"type", "integer"}})},
                 {"soft", soft_schema()},
                 {"created_at", time_or_null()}});
}

// With what is spent of it, by whom.
Json standing_schema() {
  Json schema = budget_schema();
  schema["properties"]["spent_by"] = list_of(object({{"who", {{"type", "string"}}},
                                                     {"spent_nano_usd", {{"type", "integer"}}},
                                                     {"left_nano_usd", {{"type", "integer"}}},
                                                     {"resets_at", time_or_null()}}));
  return schema;
}

Outcome<Json> list_budgets(const AdminParts& parts, const AdminCall&) {
  if (!parts.standings) return not_kept();
  return Json{{"budgets", TRY_FAULT(parts.standings())}};
}

Outcome<Json> create_budget(const AdminParts& parts, const AdminCall& call) {
  if (parts.budgets == nullptr) return not_kept();
  KeptBudget wished{.who = call.body["who"].get<std::string>(), .name = "budget"};
  const std::string scope = call.body["scope"].get<std::string>();
  for (const LimitScope each : {LimitScope::key, LimitScope::user, LimitScope::team, LimitScope::tenant})
    if (gateway::name(each) == scope) wished.scope = each;
  // A key by any of its names; one of the command line's is known by its id alone.
  if (wished.scope == LimitScope::key && parts.keys != nullptr)
    if (const auto key = parts.keys->find(wished.who)) wished.who = key->id;
  wished.window = TRY_FAULT(gateway::parse_window(call.body.value("window", "month")));
  TRY_FAULT(read_wishes(call.body, wished));
  const KeptBudget budget = TRY_FAULT(parts.budgets->create(std::move(wished)));
  if (parts.budgets_changed) parts.budgets_changed();
  tell(parts, call, "budget.created", budget.id,
       fmt::format("{} dollars for the {} '{}'", store::dollars(budget.capacity), gateway::name(budget.scope),
                   budget.who),
       {{"budget", json_of(budget)}});
  return json_of(budget);
}

Outcome<Json> change_budget(const AdminParts& parts, const AdminCall& call) {
  if (parts.budgets == nullptr) return not_kept();
  const KeptBudget budget = TRY_FAULT(parts.budgets->change(
      call.path.at("id"), [&](KeptBudget& record) -> Status { return read_wishes(call.body, record); }));
  if (parts.budgets_changed) parts.budgets_changed();
  tell(parts, call, "budget.changed", budget.id,
       fmt::format("the budget '{}' of the {} '{}' was changed", budget.name, gateway::name(budget.scope), budget.who),
       {{"changes", call.body}});
  return json_of(budget);
}

Outcome<Json> delete_budget(const AdminParts& parts, const AdminCall& call) {
  if (parts.budgets == nullptr) return not_kept();
  const auto removed = parts.budgets->remove(call.path.at("id"));
  if (!removed && removed.error().code == Code::not_found && call.path.at("id").starts_with("budget-"))
    return Json{{"id", call.path.at("id")}, {"deleted", false}};
  const KeptBudget budget = TRY_FAULT(removed);
  if (parts.budgets_changed) parts.budgets_changed();
  tell(parts, call, "budget.deleted", budget.id,
       fmt::format("the budget '{}' of the {} '{}' was deleted", budget.name, gateway::name(budget.scope), budget.who),
       {{"budget", json_of(budget)}});
  return Json{{"id", budget.id}, {"deleted", true}};
}

}  // namespace

std::vector<AdminOperation> budget_operations(const AdminParts& parts) {
  const auto with = [&parts](Outcome<Json> (*action)(const AdminParts&, const AdminCall&)) {
    return at_once([parts, action](const AdminCall& call) { return action(parts, call); });
  };
  return {
      {.method = "GET",
       .path = "/admin/v1/budgets",
       .scope = Scope::audit,
       .id = "listBudgets",
       .tag = "budgets",
       .summary = "Every budget that counts, those of the limits file too, and what each one spent of it.",
       .answer = object({{"budgets", list_of(standing_schema())}}),
       .run = with(list_budgets)},
      {.method = "POST",
       .path = "/admin/v1/budgets",
       .id = "createBudget",
       .tag = "budgets",
       .summary = "A budget for a key (its id), a user, a team or a tenant, beside those of the limits file.",
       .body = body({{"scope", words({"key", "user", "team", "tenant"})},
                     {"who", text()},
                     {"name", text(40)},
                     {"dollars", dollars_schema()},
                     {"window", words({"hour", "day", "month", "total"})},
                     {"alerts", alerts_schema()},
                     {"soft", soft_schema()}},
                    {"scope", "who", "dollars"}),
       .answer = budget_schema(),
       .run = with(create_budget),
       .audited = false},
      {.method = "GET",
       .path = "/admin/v1/budgets/{id}",
       .scope = Scope::audit,
       .id = "showBudget",
       .tag = "budgets",
       .summary = "A budget that was made here, by its id, or its name.",
       .answer = budget_schema(),
       .run = at_once([parts](const AdminCall& call) -> Outcome<Json> {
         if (parts.budgets == nullptr) return not_kept();
         return json_of(TRY_FAULT(parts.budgets->find(call.path.at("id"))));
       })},
      {.method = "PATCH",
       .path = "/admin/v1/budgets/{id}",
       .id = "changeBudget",
       .tag = "budgets",
       .summary = "Change a budget; what was spent of it stays spent.",
       .body = body({{"name", text(40)}, {"dollars", dollars_schema()}, {"alerts", alerts_schema()}, {"soft", soft_schema()}}),
       .answer = budget_schema(),
       .run = with(change_budget),
       .audited = false},
      {.method = "DELETE",
       .path = "/admin/v1/budgets/{id}",
       .id = "deleteBudget",
       .tag = "budgets",
       .summary = "Delete a budget that was made here.",
       .answer = object({{"id", {{"type", "string"}}}, {"deleted", {{"type", "boolean"}}}}),
       .run = with(delete_budget),
       .audited = false},
  };
}

}  // namespace ashlar::cli
