#include "cli/kept_budgets.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "cli/admin/records.h"
#include "cli/times.h"
#include "gateway/limits/spent.h"

namespace ashlar::cli {
namespace {

using gateway::Applied;
using gateway::LimitsConfig;
using gateway::LimitScope;
using gateway::Rule;

constexpr std::chrono::milliseconds kBehind{250};
constexpr std::size_t kMostShown = 1'000;  // spenders of one budget

// Somebody whom the rule names; `model` gets what must be asked for.
gateway::Subject subject_of(const Rule& rule, std::string& model) {
  gateway::Subject out;
  model = rule.model;
  switch (rule.scope) {
    case LimitScope::key:
      out.key = rule.who;
      break;
    case LimitScope::user:
      out.user = rule.who;
      break;
    case LimitScope::team:
      out.team = rule.who;
      break;
    case LimitScope::tenant:
      out.tenant = rule.who;
      break;
    case LimitScope::model:
      model = rule.who;
      break;
    case LimitScope::tag:
      out.tags = {{rule.who.substr(0, rule.who.find('=')), rule.who.substr(rule.who.find('=') + 1)}};
      break;
    case LimitScope::global:
      break;
  }
  return out;
}

struct Seen {
  std::string who;
  store::Limit limit;
};

Json json_of(const Rule& rule) {
  return {{"id", rule.id.empty() ? Json() : Json(rule.id)},
          {"name", rule.name},
          {"scope", gateway::name(rule.scope)},
          {"who", rule.who},
          {"window", gateway::name(rule.calendar)},
          {"dollars", store::dollars(rule.capacity)},
          {"capacity_nano_usd", rule.capacity},
          {"alerts", rule.alerts},
          {"soft", rule.soft}};
}

Result<Json> spent_by(const Rule& rule, const std::vector<Seen>& all, store::Counters& counters,
                      std::int64_t now_ms) {
  std::vector<store::Limit> limits;
  for (const Seen& each : all) limits.push_back(each.limit);
  Json out = Json::array();
  for (std::size_t at = 0; at < limits.size(); at += store::kMostCharges) {
    const std::size_t some = std::min(store::kMostCharges, limits.size() - at);
    const auto standings = TRY(counters.look(std::span(limits).subspan(at, some)));
    for (std::size_t i = 0; i < some; ++i) {
      const bool ends = limits[at + i].calendar != store::Calendar::total && standings[i].reset.count() > 0;
      const std::int64_t spent = limits[at + i].capacity - standings[i].remaining;
      out.push_back({{"who", all[at + i].who},
                     {"spent_nano_usd", spent},
                     {"left_nano_usd", std::max<std::int64_t>(0, rule.capacity - spent)},
                     {"resets_at", ends ? Json(utc((now_ms + standings[i].reset.count()) / 1000)) : Json()}});
    }
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<KeptBudgets>> KeptBudgets::open(store::Database* database, LimitsConfig file) {
  std::unique_ptr<KeptBudgets> out(new KeptBudgets(database));
  out->file_ = std::move(file);
  if (database == nullptr) return out;
  out->store_ = TRY(gateway::BudgetStore::open(*database));
  TRY(out->read());
  return out;
}

void KeptBudgets::begin(Apply apply) {
  apply_ = std::move(apply);
  if (store_ != nullptr) watch_ = std::make_unique<Watch>(kBehind, [this] { look(); });
}

Status KeptBudgets::read() {
  const auto generation = TRY(store_->generation());  // before the budgets: what changes between is read again
  auto kept = TRY(store_->list());
  const std::lock_guard lock(mutex_);
  kept_ = std::move(kept);
  generation_ = generation;
  return {};
}

Status KeptBudgets::reload() {
  const std::lock_guard changing(changing_);
  if (store_ == nullptr) return {};
  TRY(read());
  const Status done = apply_(all());
  const std::lock_guard lock(mutex_);
  troubled_ = !done;
  return done;
}

Status KeptBudgets::set_file(LimitsConfig file) {
  const std::lock_guard changing(changing_);
  TRY(apply_(joined(file)));
  const std::lock_guard lock(mutex_);
  file_ = std::move(file);
  return {};
}

void KeptBudgets::look() {
  const auto generation = store_->generation();
  Status done;
  if (!generation) {
    done = std::unexpected(generation.error());
  } else {
    const bool same = [&] {
      const std::lock_guard lock(mutex_);
      return *generation == generation_ && !troubled_;
    }();
    if (same) return;
    done = reload();
  }
  if (!done && !warned_) log::warn("budgets_not_read", {{"why", done.error().message}});
  warned_ = !done;
  const std::lock_guard lock(mutex_);
  troubled_ = !done;
}

LimitsConfig KeptBudgets::joined(const LimitsConfig& file) const {
  LimitsConfig out = file;
  for (Rule& rule : budgets().rules) out.rules.push_back(std::move(rule));
  gateway::sort_rules(out);
  return out;
}

LimitsConfig KeptBudgets::budgets() const {
  LimitsConfig out;
  const std::lock_guard lock(mutex_);
  for (const gateway::KeptBudget& budget : kept_) out.rules.push_back(rule_of(budget));
  gateway::sort_rules(out);
  return out;
}

LimitsConfig KeptBudgets::all() const {
  const LimitsConfig file = [this] {
    const std::lock_guard lock(mutex_);
    return file_;
  }();
  return joined(file);
}

Result<Json> KeptBudgets::standings(store::Counters& counters) const {
  const LimitsConfig config = all();
  const std::int64_t now_ms = store::machine_instant().utc_ms;
  std::map<const Rule*, std::vector<Seen>> seen;
  for (const Rule& rule : config.rules) {
    if (rule.measure != gateway::Measure::money || (rule.who.empty() && rule.scope != LimitScope::global)) continue;
    std::string model;
    const gateway::Subject subject = subject_of(rule, model);
    for (const Applied& applied : gateway::rules_for(config, subject, model))
      if (applied.rule == &rule) seen[&rule].push_back({applied.who, applied.limit});
  }
  // Of those for each one apart, whoever spent something.
  if (database_ != nullptr)
    for (const gateway::Spender& each : TRY(gateway::spenders(config, *database_, now_ms)))
      if (each.rule->who.empty() && each.rule->scope != LimitScope::global && seen[each.rule].size() < kMostShown)
        seen[each.rule].push_back({each.who, each.spent.limit});
  Json out = Json::array();
  for (const Rule& rule : config.rules) {
    if (rule.measure != gateway::Measure::money) continue;
    Json each = json_of(rule);
    each["spent_by"] = TRY(spent_by(rule, seen[&rule], counters, now_ms));
    out.push_back(std::move(each));
  }
  return out;
}

}  // namespace ashlar::cli
