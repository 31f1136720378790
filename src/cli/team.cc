// ashlar team create, list, show, change, block, unblock, delete.
#include <fmt/format.h>

#include <optional>

#include "base/json_full.h"
#include "cli/admin/records.h"
#include "cli/kept_keys.h"
#include "cli/subcommands.h"
#include "cli/table.h"
#include "gateway/limits/budget_store.h"

namespace ashlar::cli {
namespace {

using gateway::TeamRecord;

struct TeamPlace {
  bool json = false;
  store::StateOptions state = store::state_options_from_environment();
  void fields(auto&& field) {
    field("json", json, "For a script: all that is known, as JSON.");
    state.fields(field);
  }
};

struct TeamWishes {
  std::string tenant, description;
  std::vector<std::string> member, model;
  TeamPlace place;
  void fields(auto&& field) {
    field("tenant", tenant, "The tenant of its keys that name none.");
    field("description", description, "For people.");
    field("member", member, "A user of it, whose keys that name no team are of this one; may be given many times.");
    field(
        "model", model,
        "A model that it may use, * for any text (gpt-*), beside what its keys may; may be given many times. Left out: "
        "every model.");
    place.fields(field);
  }
};

void print_line(std::string_view name, const std::string& value) {
  if (!value.empty()) fmt::print("  {:<14}{}\n", name, shown(value));
}

std::string joined(const std::vector<std::string>& all) { return fmt::format("{}", fmt::join(all, ", ")); }

Status print_team(const TeamRecord& team, store::Database& database, bool json) {
  std::vector<gateway::KeptBudget> budgets;
  const auto store = TRY(gateway::BudgetStore::open(database));
  for (gateway::KeptBudget& each : TRY(store->list()))
    if (each.scope == gateway::LimitScope::team && each.who == team.name) budgets.push_back(std::move(each));
  if (json) {
    Json out = json_of(team);
    out["budgets"] = Json::array();
    for (const auto& each : budgets) out["budgets"].push_back(json_of(each));
    fmt::print("{}\n", dump_json(out));
    return {};
  }
  fmt::print("{}  {}\n", team.name, team.blocked ? "blocked" : "active");
  print_line("description", team.description);
  print_line("tenant", team.tenant);
  print_line("members", team.members.empty() ? "none" : joined(team.members));
  print_line("models", team.models.empty() ? "every" : joined(team.models));
  for (const auto& each : budgets)
    print_line("budget",
               fmt::format("{}: {} dollars, {}", each.name, store::dollars(each.capacity), gateway::name(each.window)));
  return {};
}

// A flag that was given, even with nothing: `--member ''` leaves none.
void take(const std::vector<std::string>& given, std::vector<std::string>& out) {
  if (given.empty()) return;
  out = given;
  std::erase(out, "");
}

void tell(store::Database& database, const std::string& team, std::string_view kind, std::string_view done) {
  tell_locally(database, {.kind = fmt::format("team.{}", kind),
                          .subject = team,
                          .message = fmt::format("the team '{}' was {}", team, done)});
}

Status create_team(const std::string& name, const TeamWishes& wishes) {
  const auto kept = TRY(open_keys(wishes.place.state));
  TeamRecord record{.name = name, .tenant = wishes.tenant, .description = wishes.description};
  take(wishes.member, record.members);
  take(wishes.model, record.models);
  const TeamRecord made = TRY(kept.teams->create(std::move(record)));
  tell(*kept.database, made.name, "created", "made");
  return print_team(made, *kept.database, wishes.place.json);
}

Status change_team(const std::string& name, const TeamWishes& wishes) {
  const auto kept = TRY(open_keys(wishes.place.state));
  const TeamRecord record = TRY(kept.teams->change(name, [&](TeamRecord& team) -> Status {
    if (!wishes.tenant.empty()) team.tenant = wishes.tenant;
    if (!wishes.description.empty()) team.description = wishes.description;
    take(wishes.member, team.members);
    take(wishes.model, team.models);
    return {};
  }));
  tell(*kept.database, record.name, "changed", "changed");
  return print_team(record, *kept.database, wishes.place.json);
}

Status list_teams(const TeamPlace& place) {
  const auto kept = TRY(open_keys(place.state));
  const auto all = TRY(kept.teams->list());
  if (place.json) {
    Json out = Json::array();
    for (const TeamRecord& each : all) out.push_back(json_of(each));
    fmt::print("{}\n", dump_json(out));
    return {};
  }
  Table table({"TEAM", "STATE", "TENANT", "MEMBERS", "MODELS", "DESCRIPTION"});
  for (const TeamRecord& each : all)
    table.add({each.name, each.blocked ? "blocked" : "active", each.tenant, std::to_string(each.members.size()),
               each.models.empty() ? "every" : joined(each.models), each.description});
  if (table.empty())
    fmt::print("There is no team in {}. To make one: ashlar team create search\n", kept.database->name());
  else
    table.print();
  return {};
}

Status for_each_team(const std::vector<std::string>& names, const TeamPlace& place, std::string_view done,
                     const std::function<Status(gateway::TeamStore&, const std::string&)>& change) {
  const auto kept = TRY(open_keys(place.state));
  for (const std::string& each : names) TRY(kept.teams->find(each));
  Json out = Json::array();
  for (const std::string& each : names) {
    TRY(change(*kept.teams, each));
    tell(*kept.database, each, done, done);
    if (place.json)
      out.push_back({{"name", each}, {"result", done}});
    else
      fmt::print("{} {}\n", done, shown(each));
  }
  if (place.json) fmt::print("{}\n", dump_json(out));
  return {};
}

Status set_blocked(gateway::TeamStore& teams, const std::string& name, bool blocked) {
  TRY(teams.change(name, [&](TeamRecord& team) -> Status {
    team.blocked = blocked;
    return {};
  }));
  return {};
}

int run_wishes(const Words& words, const char* name, const char* summary, const char* example,
               Status (*action)(const std::string&, const TeamWishes&)) {
  TeamWishes wishes;
  std::string team;
  return run_line({.name = name,
                   .summary = summary,
                   .examples = example,
                   .positionals = {{.name = "TEAM", .help = "Its name.", .value = &team, .required = true}},
                   .options = list_options(wishes)},
                  words, [&] { return action(team, wishes); });
}

int run_each(const Words& words, const char* name, const char* summary, std::string_view done,
             const std::function<Status(gateway::TeamStore&, const std::string&)>& change) {
  TeamPlace place;
  std::vector<std::string> teams;
  return run_line({.name = name,
                   .summary = summary,
                   .positionals = {{.name = "TEAM", .help = "Its name.", .rest = &teams, .required = true}},
                   .options = list_options(place)},
                  words, [&] { return for_each_team(teams, place, done, change); });
}

}  // namespace

int team(const Words& words) {
  const std::vector<Subcommand> all = {
      {"create", "TEAM [--member USER] ...", "make one",
       [](const Words& rest) {
         return run_wishes(rest, "team create", "Make a team.",
                           "Example:\n  ashlar team create search --tenant acme --member ann --model 'qwen*'",
                           create_team);
       }},
      {"list", "[--json]", "all of them",
       [](const Words& rest) {
         TeamPlace place;
         return run_line({.name = "team list", .summary = "The teams, by name.", .options = list_options(place)}, rest,
                         [&] { return list_teams(place); });
       }},
      {"show", "TEAM", "all that is known of one, with its budgets",
       [](const Words& rest) {
         TeamPlace place;
         std::string name;
         return run_line({.name = "team show",
                          .summary = "All that is known of a team, with its budgets.",
                          .positionals = {{.name = "TEAM", .help = "Its name.", .value = &name, .required = true}},
                          .options = list_options(place)},
                         rest, [&]() -> Status {
                           const auto kept = TRY(open_keys(place.state));
                           return print_team(TRY(kept.teams->find(name)), *kept.database, place.json);
                         });
       }},
      {"change", "TEAM [--member USER] ...", "what is said is changed, the rest stays",
       [](const Words& rest) {
         return run_wishes(rest, "team change", "Change a team: what is said is changed, the rest stays.",
                           "Example:\n  ashlar team change search --member ann --member bob\n`--member ''` leaves no "
                           "members, `--model ''` every model.",
                           change_team);
       }},
      {"block", "TEAM...", "refuse its keys until further notice",
       [](const Words& rest) {
         return run_each(
             rest, "team block", "Refuse the keys of teams until they are unblocked.", "blocked",
             [](gateway::TeamStore& teams, const std::string& name) { return set_blocked(teams, name, true); });
       }},
      {"unblock", "TEAM...", "take them again",
       [](const Words& rest) {
         return run_each(
             rest, "team unblock", "Take the keys of blocked teams again.", "unblocked",
             [](gateway::TeamStore& teams, const std::string& name) { return set_blocked(teams, name, false); });
       }},
      {"delete", "TEAM...", "for good; its keys and budgets stay",
       [](const Words& rest) {
         return run_each(rest, "team delete", "Delete teams for good; their keys and budgets stay.", "deleted",
                         [](gateway::TeamStore& teams, const std::string& name) { return teams.remove(name); });
       }},
  };
  return dispatch_subcommand(
      "team",
      "Teams: whose members and keys are counted, limited and blocked together. A server that runs "
      "notices\nevery change within a second.",
      all, words);
}

}  // namespace ashlar::cli
