// The face of this folder: who sent a request, and whether they may.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/identity/issuer.h"
#include "gateway/identity/key_ring.h"
#include "gateway/identity/policy.h"
#include "gateway/identity/principal.h"
#include "net/http.h"

namespace ashlar::gateway {

// Whom a client's certificate stands for, by one of its alternative names
// ("URI:spiffe://prod/ns/search/sa/app", "DNS:app.acme.internal", "email:ann@acme.com").
struct CertificateRule {
  std::string match;   // a pattern of such a name; "*" stands for any text
  std::string tenant;  // "$1": what the pattern's first "*" stood for; so in the next two
  std::string team, user;
  Roles roles{Role::app};
  std::vector<std::string> models;
  int min_priority = 0;  // as Principal has it
};

struct IdentityConfig {
  std::vector<IssuerOptions> issuers;
  std::vector<CertificateRule> certificates;
  Policy policy;
};

// Reads YAML or JSON:
//
//   issuers:
//     - issuer: https://login.example.com
//       audience: ashlar
//       algorithms: [RS256, ES256]            # the default
//       claims: {user: email, team: team, tenant: org, roles: realm_access.roles}
//       roles: {ml-admins: admin, ml-devs: developer}
//       default_roles: [app]
//       min_priority: -1, priorities: {gold: -5}, claims: {..., priority: tier}
//       jwks_url | jwks_file | secret_file, tenant, tenants, models, tls_ca, allow_private,
//       skew, refresh, min_interval, stale_for (30s, 5m, 24h)
//   certificates:
//     - {match: "URI:spiffe://prod/ns/*/sa/*", tenant: "$1", roles: [app], min_priority: -2}
//   policy:
//     - {name: no-nights, effect: deny, when: {role: app, time: {from: "22:00", to: "06:00"}}}
//
// Rules: read_policy.h. Errors call the text `path`. invalid: every fault, a line each; too_large: beyond 1 MiB. `beside`:
// gets the files that the text names, which are a part of what it says, where it is refused too.
Result<IdentityConfig> parse_identity_config(const std::string& text, const std::string& path = "identity",
                                             std::vector<std::string>* beside = nullptr);

// Any thread.
class Identity {
 public:
  using Identified = std::function<void(Result<Who>)>;

  // What a configuration says, made ready.
  struct Rules;

  // `keys`: null where there is no database of keys; outlives this. invalid: as Issuers::create.
  static Result<std::unique_ptr<Identity>> create(IdentityConfig config, KeyRing* keys,
                                                  IssuerClocks clocks = system_clocks());
  ~Identity();  // whoever waits for an issuer is answered

  // Two steps to another configuration, whose errors are all the first one's: as create(). Requests under way end by
  // the rules that they began with.
  Result<std::shared_ptr<Rules>> prepare(IdentityConfig config) const;
  void set(std::shared_ptr<Rules> rules);
  // Ends what was replaced and nobody waits for any more. To be called now and then.
  void turn();

  // Whether anybody must say who they are: there are keys, issuers or certificate rules.
  bool required() const;

  // `credential`: the key or token of the request, "" without one. Calls `done` once, mostly
  // before it returns, else on an issuer's thread. unauthorized, unavailable; forbidden: of a team that is blocked.
  void identify(std::string_view credential, const net::HttpRequest& request, Identified done) const;

  // The same by `rules` instead of those that hold.
  bool required(const Rules& rules) const;

  Decision decide(const Principal& who, const Action& action) const;
  std::int64_t unix_seconds() const { return clocks_.unix_seconds(); }

  // Sentences for health: keys or issuers that cannot be read now.
  std::vector<std::string> troubles() const;

 private:
  Identity(std::shared_ptr<Rules> rules, KeyRing* keys, IssuerClocks clocks);
  std::shared_ptr<const Rules> rules() const;

  KeyRing* const keys_;
  const IssuerClocks clocks_;
  mutable std::mutex mutex_;
  std::shared_ptr<Rules> rules_;                 // GUARDED_BY(mutex_); never null
  std::vector<std::shared_ptr<Rules>> retired_;  // GUARDED_BY(mutex_): somebody may wait for their issuers
};

// Who a certificate with these names stands for. unauthorized: no rule fits one.
Result<Who> identify_certificate(const std::vector<CertificateRule>& rules, const std::vector<std::string>& names);

}  // namespace ashlar::gateway
