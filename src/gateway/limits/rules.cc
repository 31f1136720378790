#include "gateway/limits/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <tuple>

#include "store/digest.h"

namespace ashlar::gateway {
namespace {

using store::LimitKind;

constexpr std::size_t kLongestPart = 60;

// A name of anybody's choice as a part of a counter's key. Long and strange ones by their fingerprint.
std::string part_of_key(std::string_view name) {
  const bool plain = !name.empty() && name.size() <= kLongestPart && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == '@';
  });
  if (plain) return std::string(name);
  return "~" + store::to_hex(store::sha256(name)).substr(0, 40);
}

// Whom of a scope a request counts for; nullopt: nobody known.
std::optional<std::string> member(LimitScope scope, const Subject& subject, const std::string& model) {
  const auto known = [](const std::string& name) { return name.empty() ? std::nullopt : std::optional(name); };
  switch (scope) {
    case LimitScope::key:
      return known(subject.key);
    case LimitScope::user:
      return !subject.user.empty() ? subject.user : !subject.key.empty() ? subject.key : "anonymous";
    case LimitScope::team:
      return known(subject.team);
    case LimitScope::tenant:
      return known(subject.tenant);
    case LimitScope::model:
      return known(model);
    case LimitScope::global:
      return "";
    case LimitScope::tag:
      return std::nullopt;
  }
  return std::nullopt;
}

bool has_tag(const Subject& subject, std::string_view tag) {
  return std::ranges::any_of(subject.tags, [&](const auto& pair) {
    return tag.size() == pair.first.size() + 1 + pair.second.size() && tag.starts_with(pair.first) &&
           tag[pair.first.size()] == '=' && tag.ends_with(pair.second);
  });
}

// Who of the scope `who` means; nullopt: not this request.
std::optional<std::string> matched(LimitScope scope, const std::string& who, const Subject& subject,
                                   const std::string& model) {
  if (scope == LimitScope::tag) return has_tag(subject, who) ? std::optional(who) : std::nullopt;
  auto found = member(scope, subject, model);
  if (found && !who.empty() && *found != who) return std::nullopt;
  return found;
}

struct Named {
  LimitScope scope;
  const std::string& who;
};

std::string counter_key(const Rule& rule, const std::string& who) {
  std::string key(name(rule.scope));
  if (rule.scope != LimitScope::global) key += ":" + part_of_key(who);
  key += ":" + (rule.id.empty() ? rule.name : rule.id);
  if (!rule.model.empty()) key += ":" + part_of_key(rule.model);
  // A window of another length, or another calendar, is another count.
  const std::int64_t window = rule.kind == LimitKind::budget ? static_cast<int>(rule.calendar) : rule.period.count();
  return key.append(":").append(fmt::format_int(window).str());
}

}  // namespace

std::string_view name(LimitScope scope) {
  static constexpr std::string_view kNames[] = {"key", "user", "team", "tenant", "model", "global", "tag"};
  return kNames[static_cast<int>(scope)];
}

Result<std::vector<Rule>> limits_profile(std::string_view profile) {
  using std::chrono::hours;
  if (profile == "none") return std::vector<Rule>{};
  if (profile != "field")
    return Error{Code::invalid, fmt::format("there is no profile '{}': expected field or none", profile.substr(0, 40))};
  return std::vector<Rule>{
      {.scope = LimitScope::user,
       .name = "tpm",
       .kind = LimitKind::token_bucket,
       .capacity = 1'000,
       .period = std::chrono::minutes(1)},
      {.scope = LimitScope::user, .name = "tpd", .capacity = 50'000, .period = hours(24)},
      {.scope = LimitScope::model,
       .name = "concurrency",
       .measure = Measure::seats,
       .kind = LimitKind::semaphore,
       .capacity = 10,
       .period = std::chrono::seconds(30)},
      {.scope = LimitScope::global,
       .name = "tps",
       .kind = LimitKind::leaky_bucket,
       .capacity = 10'000,
       .period = std::chrono::seconds(1)},
      {.scope = LimitScope::team, .name = "rph", .measure = Measure::requests, .capacity = 1'000, .period = hours(1)},
  };
}

Status check_rule(const Rule& rule) {
  const bool named = !rule.name.empty() && rule.name.size() <= 40 && std::ranges::all_of(rule.name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
  if (!named) return Error{Code::invalid, "a limit's name is 1 to 40 small letters, digits, _ and -"};
  const auto wrong = [&](std::string_view what) {
    return Error{Code::invalid, fmt::format("limit '{}': {}", rule.name, what)};
  };
  if (rule.who.size() > 256 || rule.model.size() > 256) return wrong("a name of more than 256 bytes");
  if (rule.scope == LimitScope::tag && rule.who.find('=') == rule.who.npos)
    return wrong("a tag is written NAME=VALUE in `who`");
  if (rule.scope == LimitScope::global && !rule.who.empty()) return wrong("a global limit is for nobody by name");
  if ((rule.measure == Measure::money) != (rule.kind == LimitKind::budget))
    return wrong("money is counted by a budget, and nothing else is");
  if ((rule.measure == Measure::seats) != (rule.kind == LimitKind::semaphore))
    return wrong("seats are counted by a semaphore, and nothing else is");
  if (rule.kind == LimitKind::semaphore && rule.period < std::chrono::seconds(1))
    return wrong("a lease is at least one second");
  if (!rule.alerts.empty() && rule.kind != LimitKind::budget) return wrong("only budgets have alerts");
  if (rule.soft && rule.kind != LimitKind::budget) return wrong("only budgets are soft");
  if (rule.soft && rule.capacity == 0) return wrong("a soft budget is more than 0 dollars");
  const int most = rule.soft ? 1000 : 100;
  for (const int percent : rule.alerts)
    if (percent < 1 || percent > most) return wrong(fmt::format("an alert is at 1 to {} percent", most));
  const std::string why =
      store::fault_of({.kind = rule.kind, .capacity = rule.capacity, .period = rule.period, .calendar = rule.calendar});
  return why.empty() ? Status() : wrong(why);
}

void sort_rules(LimitsConfig& config) {
  // Those of one scope and name stay in their order: the later stands for the earlier.
  std::vector<std::size_t> order(config.rules.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::size_t i) {
    return std::tuple(config.rules[i].scope, std::string_view(config.rules[i].who), i);
  });
  std::vector<Rule> rules;
  for (const std::size_t i : order) rules.push_back(std::move(config.rules[i]));
  config.rules = std::move(rules);
}

namespace {

// Adds a rule that means this request, in place of the one that it stands for: the rules for each one come first.
void apply(const Rule& rule, const std::string& who, const std::string& model, std::vector<Applied>& applied) {
  if (!rule.model.empty() && rule.model != model) return;
  Applied now{.rule = &rule,
              .who = rule.scope == LimitScope::global ? "all requests together"
                                                      : std::string(name(rule.scope)) + " '" + who.substr(0, 100) + "'",
              .limit = {.key = counter_key(rule, who),
                        .kind = rule.kind,
                        .capacity = rule.soft ? store::kMostAmount : rule.capacity,
                        .period = rule.period,
                        .calendar = rule.calendar}};
  const auto before = std::ranges::find_if(applied, [&](const Applied& other) {
    return other.rule->scope == rule.scope && other.rule->name == rule.name && other.rule->model == rule.model &&
           other.rule->id == rule.id && (rule.scope != LimitScope::tag || other.rule->who == rule.who);
  });
  if (before == applied.end())
    applied.push_back(std::move(now));
  else
    *before = std::move(now);
}

}  // namespace

std::vector<Applied> rules_for(const LimitsConfig& config, const Subject& subject, const std::string& model) {
  std::vector<Applied> applied;
  const auto apply_all = [&](LimitScope scope, const std::string& named, const std::string& who) {
    const auto [begin, end] = std::equal_range(
        config.rules.begin(), config.rules.end(), Named{scope, named}, [](const auto& a, const auto& b) {
          return std::pair(a.scope, std::string_view(a.who)) < std::pair(b.scope, std::string_view(b.who));
        });
    for (auto rule = begin; rule != end; ++rule) apply(*rule, who, model, applied);
  };
  for (const LimitScope scope : {LimitScope::key, LimitScope::user, LimitScope::team, LimitScope::tenant,
                                 LimitScope::model, LimitScope::global}) {
    const auto who = member(scope, subject, model);
    if (!who) continue;
    apply_all(scope, "", *who);
    if (!who->empty()) apply_all(scope, *who, *who);
  }
  for (const auto& [tag, value] : subject.tags) {
    const std::string pair = tag + "=" + value;
    apply_all(LimitScope::tag, pair, pair);
  }
  return applied;
}

std::optional<std::int64_t> output_cap(const LimitsConfig& config, const Subject& subject, const std::string& model) {
  std::optional<std::int64_t> cap;
  for (const OutputCap& one : config.caps)
    if (matched(one.scope, one.who, subject, model)) cap = std::min(cap.value_or(one.tokens), one.tokens);
  return cap;
}

}  // namespace ashlar::gateway
