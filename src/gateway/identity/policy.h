// What a principal may do: by role (RBAC), and by rules on attributes (ABAC).
// A rule that denies wins over every rule that allows, whatever their order; a
// rule that allows gives what the role does not; without either, the role decides.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
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
  Policy(Policy&&) noexcept;
  Policy& operator=(Policy&&) noexcept;
  ~Policy();

  // `rules`: an array of
  //   {"name": "night", "effect": "deny",
  //    "when":   {"tenant": ["acme*"], "model": "gpt-*", "time": {"days": ["sat", "sun"], "from": "22:00", "to":
  //    "06:00"}}, "unless": {"source": ["10.0.0.0/8"]}}
  // A condition is one text or a list, of which one must fit; all conditions must hold. Of several data classes, or
  // names of a model, one that fits is enough to deny, and all must fit to allow. Conditions are
  // tenant, team, user, key, role, proof, scope, model, data_class (patterns), tags (an object of
  // patterns), source (networks), time (UTC; from is later than to: over midnight, and
  // its days are those on which it begins). A rule without `scope` is about `use` if
  // it allows, about everything if it denies.
  // invalid: says in which rule what is wrong.
  static Result<Policy> parse(const Json& rules);

  Decision decide(const Principal& who, const Action& action) const;

 private:
  std::vector<PolicyRule> rules_;
};

}  // namespace ashlar::gateway
