// ashlar budget create, list, change, delete.
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "base/json_full.h"
#include "cli/kept_keys.h"
#include "cli/admin/records.h"
#include "cli/subcommands.h"
#include "cli/table.h"
#include "gateway/identity/key_store.h"
#include "gateway/limits/budget_store.h"
#include "gateway/limits/prices.h"
#include "gateway/limits/spent.h"
#include "store/database.h"
#include "store/migrations.h"
#include "store/usage.h"

namespace ashlar::cli {
namespace {

using gateway::KeptBudget;
using gateway::LimitScope;

struct BudgetPlace {
  bool json = false;
  store::StateOptions state = store::state_options_from_environment();
  void fields(auto&& field) {
    field("json", json, "For a script: all that is known, as JSON.");
    state.fields(field);
  }
};

struct BudgetWishes {
  std::string name, dollars, window = "month";
  bool soft = false;
  BudgetPlace place;
  std::vector<std::string> alerts;
  void fields(auto&& field) {
    field("name", name, "What it is called in refusals: small letters, digits, _ and -. Left out: budget.");
    field("dollars", dollars, "How much, such as 12.50.");
    field("window", window, "hour, day, month (of UTC) or total.");
    field("alert", alerts, "Tell somebody at this percentage of it; may be given many times.");
    field("soft", soft, "Tell somebody, at 100 % unless --alert says others (to 1000), and refuse nobody.");
    place.fields(field);
  }
};

struct BudgetChanges {
  std::string name, dollars;
  bool soft = false, hard = false;
  std::vector<std::string> alerts;
  BudgetPlace place;
  void fields(auto&& field) {
    field("name", name, "Another name.");
    field("dollars", dollars, "Another amount.");
    field("alert", alerts, "Other percentages at which somebody is told; may be given many times.");
    field("soft", soft, "Refuse nobody from now on: only tell.");
    field("hard", hard, "Refuse what has no room, from now on.");
    place.fields(field);
  }
};

struct KeptState {
  std::unique_ptr<store::Database> database;
  std::unique_ptr<gateway::BudgetStore> budgets;
};

Result<KeptState> open_budgets(const store::StateOptions& options) {
  KeptState out;
  const std::string where = TRY(store::state_location(options));
  out.database = TRY(store::open_database(where));
  out.budgets = TRY(gateway::BudgetStore::open(*out.database));
  TRY(store::migrate(*out.database, std::span(&store::usage_schema(), 1)));
  return out;
}

void tell(const KeptState& kept, const KeptBudget& budget, std::string_view kind, std::string_view done) {
  tell_locally(*kept.database, {.kind = fmt::format("budget.{}", kind),
                                .subject = budget.id,
                                .message = fmt::format("the budget '{}' of the {} '{}' was {}: {} dollars", budget.name,
                                                       gateway::name(budget.scope), budget.who, done,
                                                       store::dollars(budget.capacity))});
}

Result<std::vector<int>> read_alerts(const std::vector<std::string>& texts) {
  std::vector<int> out;
  for (const std::string& text : texts) {
    const auto value = parse_json(text);
    if (!value || !value->is_number_integer() || *value < 1 || *value > 1000)
      return Error{Code::invalid, fmt::format("--alert: '{}' is no percentage from 1 to 100, of a soft budget to 1000", text)};
    out.push_back(value->get<int>());
  }
  return out;
}

// "team:search"
Status read_subject(const std::string& text, KeptBudget& budget) {
  const auto colon = text.find(':');
  for (const LimitScope each : {LimitScope::key, LimitScope::user, LimitScope::team, LimitScope::tenant})
    if (colon != std::string::npos && gateway::name(each) == text.substr(0, colon)) {
      budget.scope = each;
      budget.who = text.substr(colon + 1);
      return {};
    }
  return Error{Code::invalid, fmt::format("'{}' is not key:ID, user:NAME, team:NAME or tenant:NAME", text)};
}

// A key by any of its names, as its id. Keys of the command line and tokens are known by their ids alone.
Status name_key(store::Database& database, std::string& who) {
  const auto keys = TRY(gateway::KeyStore::open(database));
  auto key = keys->find(who);
  if (!key && key.error().code != Code::not_found) return std::unexpected(std::move(key.error()));
  if (key)
    who = std::move(key->id);
  else
    fmt::print(stderr, "ashlar budget create: no key that is kept is called '{}'; the budget holds for whoever has that id\n",
               who);
  return {};
}

void print_budget(const KeptBudget& budget, bool json) {
  if (json)
    fmt::print("{}\n", dump_json(json_of(budget)));
  else
    fmt::print("{}  {} dollars for the {} '{}', {}: {}\n", budget.id, store::dollars(budget.capacity),
               gateway::name(budget.scope), shown(budget.who), gateway::name(budget.window), budget.name);
}

Status create_budget(const std::string& subject, const BudgetWishes& wishes) {
  if (wishes.dollars.empty()) return Error{Code::invalid, "--dollars is missing"};
  KeptBudget budget{.name = wishes.name.empty() ? "budget" : wishes.name};
  TRY(read_subject(subject, budget));
  budget.capacity = TRY(gateway::parse_dollars(wishes.dollars));
  budget.window = TRY(gateway::parse_window(wishes.window));
  budget.alerts = TRY(read_alerts(wishes.alerts));
  budget.soft = wishes.soft;
  const auto kept = TRY(open_budgets(wishes.place.state));
  if (budget.scope == LimitScope::key) TRY(name_key(*kept.database, budget.who));
  const KeptBudget made = TRY(kept.budgets->create(std::move(budget)));
  tell(kept, made, "created", "made");
  print_budget(made, wishes.place.json);
  return {};
}

Status change_budget(const std::string& which, const BudgetChanges& changes) {
  if (changes.soft && changes.hard) return Error{Code::invalid, "--soft or --hard, not both"};
  const auto kept = TRY(open_budgets(changes.place.state));
  const KeptBudget changed = TRY(kept.budgets->change(which,
                                        [&](KeptBudget& budget) -> Status {
                                          if (!changes.name.empty()) budget.name = changes.name;
                                          if (!changes.dollars.empty())
                                            budget.capacity = TRY(gateway::parse_dollars(changes.dollars));
                                          if (!changes.alerts.empty()) budget.alerts = TRY(read_alerts(changes.alerts));
                                          if (changes.soft || changes.hard) budget.soft = changes.soft;
                                          return {};
                                        }));
  tell(kept, changed, "changed", "changed");
  print_budget(changed, changes.place.json);
  return {};
}

// With what the rows of usage say was spent; what runs now is not in them.
Status list_budgets(const BudgetPlace& place) {
  const auto kept = TRY(open_budgets(place.state));
  const auto all = TRY(kept.budgets->list());
  gateway::LimitsConfig config;
  for (const KeptBudget& each : all) config.rules.push_back(rule_of(each));
  gateway::sort_rules(config);
  const auto spent = TRY(gateway::spenders(config, *kept.database, store::machine_instant().utc_ms));
  const auto spent_of = [&](const KeptBudget& budget) {
    const auto found = std::ranges::find_if(spent, [&](const auto& each) { return each.rule->id == budget.id; });
    return found == spent.end() ? std::int64_t{0} : found->spent.used;
  };
  if (place.json) {
    Json out = Json::array();
    for (const KeptBudget& each : all) {
      Json one = json_of(each);
      one["spent_nano_usd"] = spent_of(each);
      one["left_nano_usd"] = std::max<std::int64_t>(0, each.capacity - spent_of(each));
      out.push_back(std::move(one));
    }
    fmt::print("{}\n", dump_json(out));
    return {};
  }
  Table table({"ID", "FOR", "NAME", "WINDOW", "DOLLARS", "SPENT", "LEFT", "KIND"});
  for (const KeptBudget& each : all)
    table.add({each.id, fmt::format("{}:{}", gateway::name(each.scope), each.who), each.name,
               std::string(gateway::name(each.window)), store::dollars(each.capacity), store::dollars(spent_of(each)),
               store::dollars(std::max<std::int64_t>(0, each.capacity - spent_of(each))), each.soft ? "soft" : "hard"});
  if (table.empty())
    fmt::print("There is no budget in {}. To make one: ashlar budget create team:search --dollars 100\n",
               kept.database->name());
  else
    table.print();
  return {};
}

Status delete_budgets(const std::vector<std::string>& which, const BudgetPlace& place) {
  const auto kept = TRY(open_budgets(place.state));
  std::vector<KeptBudget> found;
  for (const std::string& each : which) found.push_back(TRY(kept.budgets->find(each)));
  Json out = Json::array();
  for (const KeptBudget& each : found) {
    TRY(kept.budgets->remove(each.id));
    tell(kept, each, "deleted", "deleted");
    if (place.json)
      out.push_back({{"id", each.id}, {"result", "deleted"}});
    else
      fmt::print("deleted {}\n", each.id);
  }
  if (place.json) fmt::print("{}\n", dump_json(out));
  return {};
}

int run_create(const Words& words) {
  BudgetWishes wishes;
  std::string subject;
  return run_line(
      {.name = "budget create",
       .summary = "Make a budget, beside those of the file of limits. It counts what was spent of the window already.",
       .examples = "Examples:\n  ashlar budget create team:search --dollars 100 --alert 80 --alert 100\n"
                   "  ashlar budget create key:key_3vT1QpX9aBcD --dollars 0.50 --window day\n"
                   "  ashlar budget create user:ann --dollars 5 --soft --alert 100 --alert 200",
       .positionals = {{.name = "SUBJECT",
                        .help = "key:ID, user:NAME, team:NAME or tenant:NAME.",
                        .value = &subject,
                        .required = true}},
       .options = list_options(wishes)},
      words, [&] { return create_budget(subject, wishes); });
}

int run_change(const Words& words) {
  BudgetChanges changes;
  std::string which;
  return run_line(
      {.name = "budget change",
       .summary = "Change a budget: what is said is changed, the rest stays; what was spent stays spent.",
       .positionals = {{.name = "BUDGET", .help = "Its id, or its name.", .value = &which, .required = true}},
       .options = list_options(changes)},
      words, [&] { return change_budget(which, changes); });
}

}  // namespace

int budget(const Words& words) {
  const std::vector<Subcommand> all = {
      {"create", "SUBJECT --dollars N ...", "make one for a key, user, team or tenant", run_create},
      {"list", "[--json]", "all that were made, with what is spent of them",
       [](const Words& rest) {
         BudgetPlace place;
         return run_line({.name = "budget list",
                          .summary = "The budgets that were made, with what is spent of them by finished requests.",
                          .options = list_options(place)},
                         rest, [&] { return list_budgets(place); });
       }},
      {"change", "BUDGET [--dollars N] ...", "what is said is changed, the rest stays", run_change},
      {"delete", "BUDGET...", "for good",
       [](const Words& rest) {
         BudgetPlace place;
         std::vector<std::string> which;
         return run_line(
             {.name = "budget delete",
              .summary = "Delete budgets for good.",
              .positionals = {{.name = "BUDGET", .help = "Its id, or its name.", .rest = &which, .required = true}},
              .options = list_options(place)},
             rest, [&] { return delete_budgets(which, place); });
       }},
  };
  return dispatch_subcommand("budget",
                             "Budgets in money, kept in the state's database: a server that runs follows every change "
                             "within a second.\nThose of its file of limits stand beside them.",
                             all, words);
}

}  // namespace ashlar::cli
