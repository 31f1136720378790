// What a token says once its signature holds: JSON Web Tokens (RFC 7519) by the
// rules of RFC 8725, and who they name here.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "gateway/identity/jwk.h"
#include "gateway/identity/jws.h"
#include "gateway/identity/principal.h"

namespace ashlar::gateway {

// Which claims name what. A path is a member's name, or names with dots between
// them ("realm_access.roles"); "": no claim does.
struct ClaimPaths {
  std::string user = "sub", team, tenant, roles;
  std::string priority{};
};

// What one issuer's tokens must be, and what they mean.
struct IssuerRules {
  std::string issuer;                   // `iss`, to the letter
  std::vector<std::string> audiences;   // one of these must be in `aud`; never empty
  std::vector<std::string> algorithms;  // of find_algorithm(), never empty, never secrets and public keys together
  std::chrono::seconds skew{60};        // how far its clock may differ from ours
  ClaimPaths claims;
  std::string tenant;                      // of all its tokens, where no claim names one
  std::vector<std::string> tenants;        // patterns of the tenants that it may name; none: any
  std::map<std::string, Role> role_names;  // what its roles are here; a role that is not listed gives nothing
  Roles default_roles{Role::app};          // of a token that gives none
  std::vector<std::string> models;         // patterns; none: every model
  // Principal::min_priority: of all its tokens, and of those whose claim has one of these values, if that is more
  // urgent. Another value gives nothing, so that a token is never more urgent than is written here.
  int min_priority = 0;
  std::map<std::string, int> priorities;
};

// The claims of `payload`, strictly read. invalid: no JSON object whose members have different names.
Result<Json> parse_claims(std::string_view payload);

// `iss` of a token whose signature has not been checked: only to find who must have signed it. "" if it has none.
std::string unproven_issuer(const Jws& jws);

// The key among `keys` that signed `jws`, by `kid` where the token has one. The
// algorithm must be one of the rules'. unauthorized: none did, in one sentence that is the same whatever was wrong.
// not_found: the token names a key that is not there.
Status check_signature(const Jws& jws, const std::vector<Jwk>& keys, const IssuerRules& rules);

// Who the claims name at the time `now` (seconds of Unix). unauthorized: expired,
// not yet valid, for another audience, without `exp`, of another type of token, a
// claim that is no name.
Result<Principal> check_claims(const Jws& jws, const IssuerRules& rules, std::int64_t now);

}  // namespace ashlar::gateway
