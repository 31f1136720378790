// The admin API's operations on teams.
#include <fmt/format.h>

#include "cli/admin/admin.h"
#include "cli/admin/operation.h"
#include "cli/admin/records.h"

namespace ashlar::cli {
namespace {

using api::AdminCall;
using api::AdminOperation;
using api::Outcome;
using gateway::Scope;
using gateway::TeamRecord;

Json wishes() {
  return {{"tenant", text()},
          {"description", text()},
          {"members", texts(10'000, 128)},
          {"models", texts(1'000)},
          {"blocked", {{"type", "boolean"}}}};
}

Json team_schema() {
  return object({{"name", {{"type", "string"}}},
                 {"state", words({"active", "blocked"})},
                 {"tenant", {{"type", "string"}}},
                 {"description", {{"type", "string"}}},
                 {"members", list_of({{"type", "string"}})},
                 {"models", list_of({{"type", "string"}})},
                 {"created_at", time_or_null()}});
}

void reload(const AdminParts& parts) {
  if (parts.ring != nullptr) (void)parts.ring->reload();
}

Outcome<Json> list_teams(const AdminParts& parts, const AdminCall&) {
  if (parts.teams == nullptr) return not_kept();
  Json out = Json::array();
  for (const TeamRecord& team : TRY_FAULT(parts.teams->list())) out.push_back(json_of(team));
  return Json{{"teams", std::move(out)}};
}

Outcome<Json> create_team(const AdminParts& parts, const AdminCall& call) {
  if (parts.teams == nullptr) return not_kept();
  TeamRecord wished{.name = call.body["name"].get<std::string>()};
  TRY_FAULT(read_wishes(call.body, wished));
  const TeamRecord team = TRY_FAULT(parts.teams->create(std::move(wished)));
  reload(parts);
  tell(parts, call, "team.created", team.name, fmt::format("the team '{}' was made", team.name),
       {{"team", json_of(team)}});
  return json_of(team);
}

// The team and its budgets.
Outcome<Json> show_team(const AdminParts& parts, const AdminCall& call) {
  if (parts.teams == nullptr) return not_kept();
  const TeamRecord team = TRY_FAULT(parts.teams->find(call.path.at("name")));
  Json out = json_of(team);
  out["budgets"] = Json::array();
  if (parts.budgets != nullptr)
    for (const gateway::KeptBudget& budget : TRY_FAULT(parts.budgets->list()))
      if (budget.scope == gateway::LimitScope::team && budget.who == team.name)
        out["budgets"].push_back(json_of(budget));
  return out;
}

Outcome<Json> change_team(const AdminParts& parts, const AdminCall& call) {
  if (parts.teams == nullptr) return not_kept();
  bool was_blocked = false;
  const TeamRecord team = TRY_FAULT(parts.teams->change(call.path.at("name"), [&](TeamRecord& record) -> Status {
    was_blocked = record.blocked;
    return read_wishes(call.body, record);
  }));
  reload(parts);
  if (was_blocked != team.blocked)
    tell(parts, call, team.blocked ? "team.blocked" : "team.unblocked", team.name,
         fmt::format("the team '{}' was {}", team.name, team.blocked ? "blocked" : "unblocked"));
  if (call.body.size() > (call.body.contains("blocked") ? 1u : 0u))
    tell(parts, call, "team.changed", team.name, fmt::format("the team '{}' was changed", team.name),
         {{"changes", call.body}});
  return json_of(team);
}

Outcome<Json> delete_team(const AdminParts& parts, const AdminCall& call) {
  if (parts.teams == nullptr) return not_kept();
  const std::string& name = call.path.at("name");
  const Status removed = parts.teams->remove(name);
  if (!removed && removed.error().code == Code::not_found) return Json{{"name", name}, {"deleted", false}};
  TRY_FAULT(removed);
  reload(parts);
  tell(parts, call, "team.deleted", name, fmt::format("the team '{}' was deleted", name));
  return Json{{"name", name}, {"deleted", true}};
}

}  // namespace

std::vector<AdminOperation> team_operations(const AdminParts& parts) {
  Json create = wishes();
  create["name"] = text();
  Json shown = team_schema();
  shown["properties"]["budgets"] = list_of({{"type", "object"}});
  const auto with = [&parts](Outcome<Json> (*action)(const AdminParts&, const AdminCall&)) {
    return at_once([parts, action](const AdminCall& call) { return action(parts, call); });
  };
  return {
      {.method = "GET",
       .path = "/admin/v1/teams",
       .scope = Scope::audit,
       .id = "listTeams",
       .tag = "teams",
       .summary = "The teams, by name.",
       .answer = object({{"teams", list_of(team_schema())}}),
       .run = with(list_teams)},
      {.method = "POST",
       .path = "/admin/v1/teams",
       .id = "createTeam",
       .tag = "teams",
       .summary = "Make a team: keys that name it, and its members' keys that name none, are of it.",
       .body = body(std::move(create), {"name"}),
       .answer = team_schema(),
       .run = with(create_team),
       .audited = false},
      {.method = "GET",
       .path = "/admin/v1/teams/{name}",
       .scope = Scope::audit,
       .id = "showTeam",
       .tag = "teams",
       .summary = "A team and the budgets made for it.",
       .answer = std::move(shown),
       .run = with(show_team)},
      {.method = "PATCH",
       .path = "/admin/v1/teams/{name}",
       .id = "changeTeam",
       .tag = "teams",
       .summary = "Change a team: what is sent is changed, the rest stays. Block it with {\"blocked\": true}.",
       .body = body(wishes()),
       .answer = team_schema(),
       .run = with(change_team),
       .audited = false},
      {.method = "DELETE",
       .path = "/admin/v1/teams/{name}",
       .id = "deleteTeam",
       .tag = "teams",
       .summary = "Delete a team. Its keys and budgets stay.",
       .answer = object({{"name", {{"type", "string"}}}, {"deleted", {{"type", "boolean"}}}}),
       .run = with(delete_team),
       .audited = false},
  };
}

}  // namespace ashlar::cli
