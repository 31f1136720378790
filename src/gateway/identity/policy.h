// What a principal may do: by role (RBAC), and by rules on attributes (ABAC).
// A rule that denies wins over every rule that allows, whatever their order; a
// rule that allows gives what the role does not; without either, the role decides.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/identity/network.h"
#include "gateway/identity/principal.h"

namespace ashlar::gateway {

// What a route is about.
enum class Scope : std::uint8_t {
  open,     // anyone, without saying who
  use,      // asks models:             admin, operator, developer, app
  audit,    // reads what happened:     admin, operator, auditor
  operate,  // changes what is served:  admin, operator
  admin,    // changes who may:         admin
};
std::string_view name(Scope scope);
Roles roles_of(Scope scope);

struct Action {
  Scope scope = Scope::use;
  // The model by all of its names. None: not read yet; then nothing is refused that a model could make right: whoever
  // reads it asks again.
  std::vector<std::string> models;
  std::optional<Address> source;
  std::vector<std::string> data_classes;  // as declared, in small letters
  std::int64_t unix_seconds = 0;
};

struct Decision {
  bool allowed = false;
  std::string rule;  // the rule's name; "": the role decided
  std::string why;   // one sentence
};

struct PolicyRule;

// Immutable; any thread.
class Policy {
 public:
  // Roles alone.
  Policy();
  explicit Policy(std::vector<PolicyRule> rules);
  Policy(Policy&&) noexcept;
  Policy& operator=(Policy&&) noexcept;
  ~Policy();

  Decision decide(const Principal& who, const Action& action) const;

 private:
  std::vector<PolicyRule> rules_;
};

}  // namespace ashlar::gateway
