#include "gateway/identity/policy.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "gateway/identity/policy_rule.h"

namespace ashlar::gateway {

namespace {

constexpr std::string_view kScopes[] = {"open", "use", "audit", "operate", "admin"};

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
Policy::Policy(std::vector<PolicyRule> rules) : rules_(std::move(rules)) {}
Policy::Policy(Policy&&) noexcept = default;
Policy& Policy::operator=(Policy&&) noexcept = default;
Policy::~Policy() = default;

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
