#include "gateway/identity/principal.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/utf8.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kRoles[] = {"admin", "operator", "auditor", "developer", "app"};
constexpr std::size_t kMaxName = 128;

// Characters that change what a reader of a line sees.
bool is_treacherous(char32_t c) {
  return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 || (c >= 0x202a && c <= 0x202e) ||
         (c >= 0x2066 && c <= 0x2069) || c == 0x200e || c == 0x200f || c == 0x061c || c == 0xfeff;
}

}  // namespace

std::string_view name(Role role) { return kRoles[static_cast<unsigned>(role)]; }

Result<Role> parse_role(std::string_view text) {
  const auto found = std::ranges::find(kRoles, text);
  if (found != std::end(kRoles)) return static_cast<Role>(found - std::begin(kRoles));
  return Error{Code::invalid, "a role is admin, operator, auditor, developer or app"};
}

std::vector<std::string> names(Roles roles) {
  std::vector<std::string> out;
  for (unsigned i = 0; i < std::size(kRoles); ++i)
    if (roles.has(static_cast<Role>(i))) out.emplace_back(kRoles[i]);
  return out;
}

Result<Roles> parse_roles(const std::vector<std::string>& texts) {
  Roles out;
  for (const std::string& text : texts) out.add(TRY(parse_role(text)));
  return out;
}

std::string_view name(Proof proof) {
  constexpr std::string_view kProofs[] = {"loopback", "key", "jwt", "mtls"};
  return kProofs[static_cast<unsigned>(proof)];
}

int Principal::priority(int claimed) const {
  const bool any = proof == Proof::loopback || roles.has_any({Role::admin, Role::operator_});
  return any ? claimed : std::max(claimed, std::min(min_priority, 0));
}

bool Principal::may_use_model(std::string_view model) const {
  return (models.empty() || matches_any(models, model)) && (team_models.empty() || matches_any(team_models, model));
}

// Greedy with one step back: the last star seen takes one character more
// whenever what follows it does not fit.
bool matches_pattern(std::string_view pattern, std::string_view text, std::string* star) {
  std::size_t p = 0, t = 0, back_p = pattern.npos, back_t = 0;
  const std::size_t first = pattern.find('*');
  std::size_t first_end = first;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      back_p = p++;
      back_t = t;
      if (back_p == first) first_end = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (back_p != pattern.npos) {
      p = back_p + 1;
      t = ++back_t;
      if (back_p == first) first_end = t;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  if (p != pattern.size()) return false;
  // A star at the end took all that was left.
  if (star != nullptr && first != pattern.npos) {
    const bool last = first + 1 == pattern.size();
    *star = text.substr(first, last ? text.npos : first_end - first);
  }
  return true;
}

bool matches_any(const std::vector<std::string>& patterns, std::string_view text) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) { return matches_pattern(pattern, text); });
}

Status check_name(std::string_view text, std::string_view what) {
  if (text.empty() || text.size() > kMaxName)
    return Error{Code::invalid, fmt::format("{} is 1 to {} bytes long, not {}", what, kMaxName, text.size())};
  while (!text.empty()) {
    const auto step = utf8::decode(text);
    if (!step.valid) return Error{Code::invalid, fmt::format("{} is no UTF-8 text", what)};
    if (is_treacherous(step.code))
      return Error{Code::invalid,
                   fmt::format("{} holds the control character U+{:04X}", what, static_cast<unsigned>(step.code))};
    text.remove_prefix(step.bytes);
  }
  return {};
}

Status check_tenant(std::string_view text, std::string_view what) {
  TRY(check_name(text, what));
  for (const std::string_view reserved : {"key_", "key-", "jwt_", "mtls_"})
    if (text.starts_with(reserved))
      return Error{
          Code::invalid,
          fmt::format("{} may not begin with '{}': that is how tenants without a name are called", what, reserved)};
  return {};
}

}  // namespace ashlar::gateway
