// Who asks. Every later decision (what may be done, what it costs, who pays) is
// made about a Principal, never about a header that a client wrote.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ashlar::gateway {

enum class Role : std::uint8_t {
  admin,      // everything
  operator_,  // runs the server: use, operate, and reads what happened
  auditor,    // reads what happened, and asks no model
  developer,  // use
  app,        // use, for programs
};

// A set of roles.
class Roles {
 public:
  constexpr Roles() = default;
  constexpr Roles(std::initializer_list<Role> roles) {
    for (const Role role : roles) add(role);
  }
  constexpr void add(Role role) { bits_ |= bit(role); }
  constexpr bool has(Role role) const { return (bits_ & bit(role)) != 0; }
  constexpr bool has_any(Roles other) const { return (bits_ & other.bits_) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool operator==(const Roles&) const = default;

 private:
  static constexpr unsigned bit(Role role) { return 1u << static_cast<unsigned>(role); }
  unsigned bits_ = 0;
};

std::string_view name(Role role);  // "operator"
// invalid: no such role; the sentence lists them.
Result<Role> parse_role(std::string_view text);
std::vector<std::string> names(Roles roles);
Result<Roles> parse_roles(const std::vector<std::string>& texts);

// How it was proved who asks.
enum class Proof : std::uint8_t {
  loopback,  // by being on this machine, where the server has neither keys nor issuers
  key,
  jwt,
  mtls,
};
std::string_view name(Proof proof);

// No key, token or certificate lets its requests be more urgent: lower is sooner, 0 is usual.
constexpr int kMostUrgent = -1'000'000;

using Tags = std::vector<std::pair<std::string, std::string>>;

struct Principal {
  std::string key_id;              // "key_...", "jwt_...", "mtls_..."; "" on loopback
  std::string name;                // of the key, or the subject; for people to read
  std::string user, team, tenant;  // tenant is never "" but on loopback: who named none is a tenant alone
  Roles roles;
  std::vector<std::string> models;       // patterns with "*"; none: every model
  std::vector<std::string> team_models;  // the same of the team: both must allow
  Tags tags;
  int output_cap = 0;    // most tokens of one answer; 0: no cap
  int min_priority = 0;  // the most urgent that its requests may be: lower is more urgent, 0 is usual
  Proof proof = Proof::loopback;

  bool may_use_model(std::string_view model) const;
  // What a claim of `priority` is worth: those who run the server may be as urgent as they say.
  int priority(int claimed) const;
};

// `pattern` may hold "*" for any text, the empty one too. Time is bounded by
// pattern times text. What the first "*" stood for goes to `star`, if it is given.
bool matches_pattern(std::string_view pattern, std::string_view text, std::string* star = nullptr);
bool matches_any(const std::vector<std::string>& patterns, std::string_view text);

// Names that come from outside (of keys, users, teams, tenants, tags) end in
// logs, metrics and terminals: 1 to 128 bytes of UTF-8 without control characters, line
// separators and marks that turn the direction of writing. invalid: says what `what` has.
Status check_name(std::string_view text, std::string_view what);
// The same for the name of a tenant, which must not look like the one that a principal without a tenant gets.
Status check_tenant(std::string_view text, std::string_view what);

}  // namespace ashlar::gateway
