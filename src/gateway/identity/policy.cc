#include "gateway/identity/policy.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>
#include <utility>

#include "base/json_full.h"
#include "net/http_text.h"

namespace ashlar::gateway {

namespace {

constexpr std::size_t kMaxRules = 1000;
constexpr int kDay = 24 * 60;  // minutes
constexpr std::string_view kDays[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};
constexpr std::string_view kScopes[] = {"open", "use", "audit", "operate", "admin"};

struct TimeWindow {
  std::array<bool, 7> days{};  // Monday is 0
  int from = 0, to = kDay;     // minutes of the day

  bool holds(std::int64_t unix_seconds) const {
    const std::int64_t minutes = (unix_seconds >= 0 ? unix_seconds : unix_seconds - 59) / 60;
    const auto day_number = (minutes >= 0 ? minutes : minutes - (kDay - 1)) / kDay;
    const auto minute = static_cast<int>(minutes - day_number * kDay);
    const auto day = static_cast<std::size_t>(((day_number + 3) % 7 + 7) % 7);  // 1 January 1970 was a Thursday
    if (from <= to) return days[day] && minute >= from && minute < to;
    return (days[day] && minute >= from) || (days[(day + 6) % 7] && minute < to);
  }
};

struct Conditions {
  std::vector<std::pair<std::string, std::vector<std::string>>> texts;  // by attribute
  std::vector<std::pair<std::string, std::vector<std::string>>> tags;   // by tag
  std::vector<Network> sources;
  std::optional<TimeWindow> time;

  bool empty() const { return texts.empty() && tags.empty() && sources.empty() && !time; }
};

}  // namespace

struct PolicyRule {
  std::string name;
  bool denies = false;
  Conditions when, unless;
};

namespace {

// The texts that an attribute has; a principal has several roles.
std::vector<std::string> values_of(std::string_view attribute, const Principal& who, const Action& action) {
  if (attribute == "tenant") return {who.tenant};
  if (attribute == "team") return {who.team};
  if (attribute == "user") return {who.user};
  if (attribute == "key") return {who.key_id, who.name};
  if (attribute == "role") return names(who.roles);
  if (attribute == "proof") return {std::string(name(who.proof))};
  if (attribute == "scope") return {std::string(name(action.scope))};
  if (attribute == "data_class")
    return action.data_classes.empty() ? std::vector<std::string>{""} : action.data_classes;
  return action.models;
}

// What a request may have several of: one that is forbidden is not made right by another that is not.
bool is_manifold(std::string_view attribute) { return attribute == "data_class" || attribute == "model"; }

bool is_attribute(std::string_view text) {
  constexpr std::string_view kAttributes[] = {"tenant", "team",  "user",       "key",  "role",
                                              "proof",  "scope", "data_class", "model"};
  return std::ranges::find(kAttributes, text) != std::end(kAttributes);
}

// `lets`: whether it is for the good of who asks that they hold. Then every data class and name of the model must fit,
// and while the model has not been read it does; else one is enough, and what has not been read does not.
bool hold(const Conditions& conditions, const Principal& who, const Action& action, bool lets) {
  for (const auto& [attribute, patterns] : conditions.texts) {
    if (attribute == "model" && action.models.empty()) {
      if (!lets) return false;
      continue;
    }
    const auto values = values_of(attribute, who, action);
    const auto fits = [&patterns](const std::string& value) { return matches_any(patterns, value); };
    if (lets && is_manifold(attribute) ? !std::ranges::all_of(values, fits) : std::ranges::none_of(values, fits))
      return false;
  }
  for (const auto& [tag, patterns] : conditions.tags) {
    const auto found = std::ranges::find(who.tags, tag, &std::pair<std::string, std::string>::first);
    if (found == who.tags.end() || !matches_any(patterns, found->second)) return false;
  }
  if (!conditions.sources.empty() && !(action.source && contains_any(conditions.sources, *action.source))) return false;
  return !conditions.time || conditions.time->holds(action.unix_seconds);
}

Result<std::vector<std::string>> read_texts(const Json& json, const std::string& where) {
  std::vector<std::string> out;
  if (json.is_string()) out.push_back(json.get<std::string>());
  if (json.is_array())
    for (const Json& each : json) {
      if (!each.is_string()) return Error{Code::invalid, where + " holds something that is no text"};
      out.push_back(each.get<std::string>());
    }
  if (out.empty()) return Error{Code::invalid, where + " is a text or a list of texts, not empty"};
  return out;
}

// "22:30" in minutes; "24:00" is the end of the day.
Result<int> read_minute(const Json& json, const std::string& where) {
  const Error bad{Code::invalid, where + " is a time of the day (UTC) such as \"08:30\""};
  if (!json.is_string()) return bad;
  const auto& text = json.get_ref<const std::string&>();
  if (text.size() != 5 || text[2] != ':') return bad;
  int hour = 0, minute = 0;
  const auto whole = [](const char* at, int& out) {
    const auto [end, failed] = std::from_chars(at, at + 2, out);
    return failed == std::errc{} && end == at + 2;
  };
  if (!whole(text.data(), hour) || !whole(text.data() + 3, minute) || hour < 0 || minute < 0 || minute > 59 ||
      hour * 60 + minute > kDay)
    return bad;
  return hour * 60 + minute;
}

Result<TimeWindow> read_time(const Json& json, const std::string& where) {
  if (!json.is_object()) return Error{Code::invalid, where + " is an object of days, from and to"};
  TimeWindow out;
  out.days.fill(true);
  for (const auto& [name, value] : json.items()) {
    if (name == "from") {
      out.from = TRY(read_minute(value, where + ".from"));
    } else if (name == "to") {
      out.to = TRY(read_minute(value, where + ".to"));
    } else if (name == "days") {
      out.days.fill(false);
      for (const std::string& day : TRY(read_texts(value, where + ".days"))) {
        const auto found = std::ranges::find(kDays, day);
        if (found == std::end(kDays))
          return Error{Code::invalid, where + ".days are mon, tue, wed, thu, fri, sat, sun"};
        out.days[static_cast<std::size_t>(found - std::begin(kDays))] = true;
      }
    } else {
      return Error{Code::invalid, fmt::format("{} has no '{}': it has days, from and to, in UTC", where, name)};
    }
  }
  return out;
}

Result<Conditions> read_conditions(const Json& json, const std::string& where) {
  Conditions out;
  if (!json.is_object() || json.empty()) return Error{Code::invalid, where + " is an object of conditions, not empty"};
  for (const auto& [name, value] : json.items()) {
    const std::string at = where + "." + name;
    if (name == "tags") {
      if (!value.is_object() || value.empty()) return Error{Code::invalid, at + " is an object of tags"};
      for (const auto& [tag, patterns] : value.items())
        out.tags.emplace_back(tag, TRY(read_texts(patterns, at + "." + tag)));
    } else if (name == "source") {
      auto networks = parse_networks(TRY(read_texts(value, at)));
      if (!networks) return Error{Code::invalid, at + ": " + networks.error().message};
      out.sources = std::move(*networks);
    } else if (name == "time") {
      out.time = TRY(read_time(value, at));
    } else if (is_attribute(name)) {
      out.texts.emplace_back(name, TRY(read_texts(value, at)));
      if (name == "data_class")
        for (std::string& each : out.texts.back().second) each = net::lower(each);
    } else {
      return Error{Code::invalid,
                   fmt::format("{} is no condition: they are tenant, team, user, key, role, proof, scope, "
                               "model, data_class, tags, source and time",
                               at)};
    }
  }
  return out;
}

Result<PolicyRule> read_rule(const Json& json, const std::string& where) {
  if (!json.is_object()) return Error{Code::invalid, where + " is an object"};
  PolicyRule out;
  bool effect = false;
  for (const auto& [name, value] : json.items()) {
    if (name == "name" && value.is_string()) {
      out.name = value.get<std::string>();
      TRY(check_name(out.name, where + ".name"));
    } else if (name == "effect" && (value == "allow" || value == "deny")) {
      effect = true;
      out.denies = value == "deny";
    } else if (name == "when") {
      out.when = TRY(read_conditions(value, where + ".when"));
    } else if (name == "unless") {
      out.unless = TRY(read_conditions(value, where + ".unless"));
    } else {
      return Error{Code::invalid,
                   fmt::format("{}.{}: a rule has name, effect (allow or deny), when and unless", where, name)};
    }
  }
  if (!effect) return Error{Code::invalid, where + " has no effect: allow or deny"};
  if (out.name.empty()) out.name = where;
  const bool scoped = std::ranges::any_of(out.when.texts, [](const auto& each) { return each.first == "scope"; });
  if (!out.denies && !scoped) out.when.texts.emplace_back("scope", std::vector<std::string>{"use"});
  return out;
}

bool applies(const PolicyRule& rule, const Principal& who, const Action& action) {
  const bool allows = !rule.denies;
  return hold(rule.when, who, action, allows) && (rule.unless.empty() || !hold(rule.unless, who, action, !allows));
}

}  // namespace

std::string_view name(Scope scope) { return kScopes[static_cast<unsigned>(scope)]; }

Roles roles_of(Scope scope) {
  switch (scope) {
    case Scope::open:
      return {Role::admin, Role::operator_, Role::auditor, Role::developer, Role::app};
    case Scope::use:
      return {Role::admin, Role::operator_, Role::developer, Role::app};
    case Scope::audit:
      return {Role::admin, Role::operator_, Role::auditor};
    case Scope::operate:
      return {Role::admin, Role::operator_};
    case Scope::admin:
      return {Role::admin};
  }
  return {};
}

Policy::Policy() = default;
Policy::Policy(Policy&&) noexcept = default;
Policy& Policy::operator=(Policy&&) noexcept = default;
Policy::~Policy() = default;

Result<Policy> Policy::parse(const Json& rules) {
  if (!rules.is_array()) return Error{Code::invalid, "policy is a list of rules"};
  if (rules.size() > kMaxRules) return Error{Code::too_large, fmt::format("policy has more than {} rules", kMaxRules)};
  Policy out;
  for (std::size_t i = 0; i < rules.size(); ++i)
    out.rules_.push_back(TRY(read_rule(rules[i], fmt::format("policy[{}]", i))));
  return out;
}

Decision Policy::decide(const Principal& who, const Action& action) const {
  const PolicyRule* allowed = nullptr;
  for (const PolicyRule& rule : rules_) {
    if ((!rule.denies && allowed != nullptr) || !applies(rule, who, action)) continue;
    if (rule.denies) return {false, rule.name, fmt::format("the rule '{}' denies it", rule.name)};
    allowed = &rule;
  }
  if (allowed != nullptr) return {true, allowed->name, fmt::format("the rule '{}' allows it", allowed->name)};
  if (who.roles.has_any(roles_of(action.scope)))
    return {true, "", fmt::format(FMT_COMPILE("the role allows '{}'"), name(action.scope))};
  return {false, "",
          fmt::format("it needs one of the roles {}; this identity has {}",
                      fmt::join(names(roles_of(action.scope)), ", "), fmt::join(names(who.roles), ", "))};
}

}  // namespace ashlar::gateway
