#include "gateway/identity/jwt.h"

#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxTried = 8;    // keys of one algorithm, for a token that names none
constexpr std::size_t kMaxWords = 256;  // in one claim

Error refused(std::string_view why) {
  return Error{Code::unauthorized, fmt::format("the token is not valid: {}", why)};
}

// NumericDate (RFC 7519, 2): seconds, perhaps with a fraction.
Result<std::optional<double>> date(const Json& claims, const char* name) {
  const auto found = claims.find(name);
  if (found == claims.end()) return std::nullopt;
  if (!found->is_number()) return refused(fmt::format("its '{}' is no number", name));
  const auto value = found->get<double>();
  // Beyond these a double no longer counts seconds, and no clock ever shows it.
  if (!std::isfinite(value) || std::abs(value) > 1e15) return refused(fmt::format("its '{}' is no time", name));
  return value;
}

Status check_times(const Json& claims, const IssuerRules& rules, std::int64_t now) {
  const auto expires = TRY(date(claims, "exp")), from = TRY(date(claims, "nbf")), issued = TRY(date(claims, "iat"));
  const auto at = static_cast<double>(now);
  const auto skew = static_cast<double>(rules.skew.count());
  if (!expires) return refused("it has no 'exp'");
  if (at >= *expires + skew) return refused("it has expired");
  if (from && at < *from - skew) return refused("it is not valid yet");
  if (issued && at < *issued - skew) return refused("it was issued in the future");
  return {};
}

Status check_audience(const Json& claims, const IssuerRules& rules) {
  const auto found = claims.find("aud");
  const auto ours = [&](const Json& each) {
    return each.is_string() &&
           std::ranges::find(rules.audiences, each.get_ref<const std::string&>()) != rules.audiences.end();
  };
  if (found != claims.end() && (ours(*found) || (found->is_array() && std::ranges::any_of(*found, ours)))) return {};
  return refused("it is meant for another audience");
}

// A member of that name, dots and all; else step by step.
const Json* find_claim(const Json& claims, std::string_view path) {
  const Json* at = &claims;
  while (at->is_object()) {
    if (const auto whole = at->find(path); whole != at->end()) return &*whole;
    const auto dot = path.find('.');
    if (dot == path.npos) return nullptr;
    const auto next = at->find(path.substr(0, dot));
    if (next == at->end()) return nullptr;
    at = &*next;
    path.remove_prefix(dot + 1);
  }
  return nullptr;
}

// "" where there is no such claim; a list's only element stands for itself.
Result<std::string> name_in(const Json& claims, const std::string& path) {
  const Json* found = path.empty() ? nullptr : find_claim(claims, path);
  if (found != nullptr && found->is_array() && found->size() == 1) found = &found->front();
  if (found == nullptr || found->is_null()) return std::string();
  if (!found->is_string()) return refused(fmt::format("its claim '{}' is no text", path));
  const auto& text = found->get_ref<const std::string&>();
  if (const auto good = check_name(text, fmt::format("its claim '{}'", path)); !good)
    return refused(good.error().message);
  return text;
}

// Calls `take` for each word of a claim: of a list of names, or of one text with blanks between them as OAuth's `scope`
// has it.
template <class Take>
void each_word(const Json& claims, const std::string& path, const Take& take) {
  const Json* found = path.empty() ? nullptr : find_claim(claims, path);
  if (found != nullptr && found->is_string()) {
    std::string_view rest = found->get_ref<const std::string&>();
    while (!rest.empty()) {
      const auto blank = std::min(rest.find(' '), rest.size());
      take(rest.substr(0, blank));
      rest.remove_prefix(std::min(blank + 1, rest.size()));
    }
  } else if (found != nullptr && found->is_array() && found->size() <= kMaxWords) {
    for (const Json& each : *found)
      if (each.is_string()) take(each.get_ref<const std::string&>());
  }
}

Roles roles_in(const Json& claims, const IssuerRules& rules) {
  Roles out;
  each_word(claims, rules.claims.roles, [&](std::string_view text) {
    const auto known = rules.role_names.find(std::string(text));
    if (known != rules.role_names.end()) out.add(known->second);
  });
  return out.empty() ? rules.default_roles : out;
}

int min_priority_in(const Json& claims, const IssuerRules& rules) {
  int out = rules.min_priority;
  each_word(claims, rules.claims.priority, [&](std::string_view text) {
    const auto known = rules.priorities.find(std::string(text));
    if (known != rules.priorities.end()) out = std::min(out, known->second);
  });
  return out;
}

// Who a token stands for whatever it is called: two issuers' equal subjects differ.
std::string subject_id(const IssuerRules& rules, std::string_view subject) {
  const std::string both = fmt::format("{}\n{}", rules.issuer, subject);
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(both.data()), both.size(), hash);
  return fmt::format("jwt_{:02x}", fmt::join(std::span(hash).first(8), ""));
}

}  // namespace

Result<Json> parse_claims(std::string_view payload) {
  auto claims = parse_json(payload, {.depth = 32, .members = 256, .elements = 1024, .unique = true});
  if (claims && claims->is_object()) return std::move(*claims);
  return Error{Code::invalid,
               "the token is malformed: its claims are no JSON object whose members have different names"};
}

std::string unproven_issuer(const Jws& jws) {
  const auto claims = parse_claims(jws.payload);
  if (!claims) return {};
  const auto found = claims->find("iss");
  return found != claims->end() && found->is_string() ? found->get<std::string>() : std::string();
}

Status check_signature(const Jws& jws, const std::vector<Jwk>& keys, const IssuerRules& rules) {
  const Error wrong{Code::unauthorized, "the token is not valid"};
  const Algorithm* algorithm = find_algorithm(jws.algorithm);
  if (algorithm == nullptr || std::ranges::find(rules.algorithms, jws.algorithm) == rules.algorithms.end())
    return wrong;
  const bool secret = algorithm->kind == Algorithm::Kind::hmac;  // there is one, and it has no name
  bool named = false;
  std::size_t tried = 0;
  for (const Jwk& key : keys) {
    if (!secret && !jws.key_id.empty() && key.id() != jws.key_id) continue;
    named = true;
    if (!key.fits(*algorithm)) continue;
    if (key.verifies(*algorithm, jws.signed_part, jws.signature)) return {};
    if (++tried == kMaxTried) return wrong;
  }
  if (!named || (jws.key_id.empty() && tried == 0))
    return Error{Code::not_found, "the token is signed with a key that its issuer does not publish"};
  return wrong;
}

Result<Principal> check_claims(const Jws& jws, const IssuerRules& rules, std::int64_t now) {
  // A logout token or a proof of possession has claims that look like these (RFC 8725, 3.11).
  if (!jws.type.empty() && jws.type != "jwt" && jws.type != "at+jwt")
    return refused("it is another type of token than JWT or at+jwt");
  const auto claims = parse_claims(jws.payload);
  if (!claims) return refused("its claims are no JSON object whose members have different names");
  const auto issuer = claims->find("iss");
  if (issuer == claims->end() || *issuer != rules.issuer) return refused("another issuer made it");
  TRY(check_times(*claims, rules, now));
  TRY(check_audience(*claims, rules));

  Principal who{.proof = Proof::jwt};
  who.user = TRY(name_in(*claims, rules.claims.user));
  if (who.user.empty()) return refused(fmt::format("it has no claim '{}'", rules.claims.user));
  who.team = TRY(name_in(*claims, rules.claims.team));
  who.tenant = TRY(name_in(*claims, rules.claims.tenant));
  if (!who.tenant.empty())
    if (const auto good = check_tenant(who.tenant, "its tenant"); !good) return refused(good.error().message);
  if (!who.tenant.empty() && !rules.tenants.empty() && !matches_any(rules.tenants, who.tenant))
    return refused("its issuer may not name this tenant");
  const std::string subject = TRY(name_in(*claims, "sub"));
  who.key_id = subject_id(rules, subject.empty() ? who.user : subject);
  if (who.tenant.empty()) who.tenant = rules.tenant.empty() ? who.key_id : rules.tenant;
  who.name = who.user;
  who.roles = roles_in(*claims, rules);
  who.models = rules.models;
  who.min_priority = min_priority_in(*claims, rules);
  return who;
}

}  // namespace ashlar::gateway
