// The list `policy` of an identity file. A rule is
//
//   - name: night
//     effect: deny
//     when: {tenant: ["acme*"], model: "gpt-*", time: {days: [sat, sun], from: "22:00", to: "06:00"}}
//     unless: {source: [10.0.0.0/8]}
//
// A condition is one text or a list, of which one must fit; all conditions must hold. Of several data classes, or
// names of a model, one that fits is enough to deny, and all must fit to allow. Conditions are
// tenant, team, user, key, role, proof, scope, model, data_class (patterns), tags (a map of
// patterns), source (networks), time (UTC; from is later than to: over midnight, and
// its days are those on which it begins). A rule without `scope` is about `use` if
// it allows, about everything if it denies.
#pragma once

#include <vector>

#include "gateway/identity/policy_rule.h"
#include "gateway/section.h"

namespace ashlar::gateway {

std::vector<PolicyRule> read_policy(Section& section, const YAML::Node& list);

}  // namespace ashlar::gateway
