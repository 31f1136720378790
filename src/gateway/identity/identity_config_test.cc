#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "gateway/identity/identity.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

std::string why(const std::string& text) {
  const auto made = parse_identity_config(text, "id.yaml");
  return made ? "made" : made.error().message;
}

TEST(IdentityConfig, IsReadAsAWhole) {
  const auto config = parse_identity_config(R"(
issuers:
  - issuer: https://login.example.com
    audience: [ashlar, other]
    algorithms: RS256
    claims: {user: email, team: org.team, tenant: org.name, roles: realm_access.roles}
    roles: {ml-admins: admin, "ml devs": developer}
    default_roles: [app, auditor]
    skew: 30s
    stale_for: 2d
certificates:
  - {match: "URI:spiffe://prod/ns/*/sa/*", tenant: "$1"}
policy:
  - {name: nights, effect: deny, when: {role: app, time: {from: "22:00", to: "06:00"}}}
)");
  ASSERT_TRUE(config) << config.error().message;
  const IssuerOptions& issuer = config->issuers.at(0);
  EXPECT_EQ(issuer.rules.audiences, (std::vector<std::string>{"ashlar", "other"}));
  EXPECT_EQ(issuer.rules.algorithms, std::vector<std::string>{"RS256"});
  EXPECT_EQ(issuer.rules.claims.tenant, "org.name");
  EXPECT_EQ(issuer.rules.role_names.at("ml devs"), Role::developer);
  EXPECT_EQ(issuer.rules.default_roles, (Roles{Role::app, Role::auditor}));
  EXPECT_EQ(issuer.rules.skew, std::chrono::seconds(30));
  EXPECT_EQ(issuer.stale_for, std::chrono::hours(48));
  EXPECT_EQ(config->certificates.size(), 1u);
}

// Each fault with its line, and none but these.
TEST(IdentityConfig, EveryFaultIsToldWithItsLine) {
  EXPECT_EQ(
      why(R"(issuers:
  - issuer: https://login.example.com
    audiense: ashlar
    algorithms: [RS256, RS257]
    skew: 6m
    refresh: 0
    claims: {user: email, role: groups}
    roles: {ml-admins: admn}
    default_roles: [app, king]
    tenant: key_of_somebody
    tenants: []
    allow_private: maybe
  - {issuer: "http://plain.example.com", audience: a, algorithms: [RS256, HS256]}
  - {issuer: "http://plain.example.com", audience: a}
  - {issuer: "own", audience: a, secret_file: /nowhere/secret}
  - {issuer: "both", audience: a, secret_file: /nowhere/secret, jwks_url: "https://x"}
  - 5
certificates:
  - {match: "spiffe://prod/*", tenant: "$1"}
  - {match: "DNS:one.example", tenant: "$1", roles: []}
  - {tenant: jwt_x}
policy:
  - {name: one, effect: permit}
  - {name: two, when: {role: app}}
  - name: three
    effect: deny
    when:
      tennant: acme
      role: ap
      proof: password
      source: [10.0.0.1/8, 10.0.0.0/8]
      time: {from: "25:00", to: 8, days: [monday], zone: CET}
      tags: {}
    unless: {}
isuers: []
)"),
      R"(id.yaml:2: an issuer needs its 'audience', what its tokens for this server have as 'aud': else tokens made for others would do
id.yaml:3: an issuer has no 'audiense'; did you mean 'audience'?
id.yaml:4: there is no algorithm 'RS257' for signatures; did you mean 'RS256'?
id.yaml:5: 'skew' is between 0 and 5 minutes
id.yaml:6: 'refresh' should be 1s at least
id.yaml:7: 'claims' has no 'role'; did you mean 'roles'?
id.yaml:8: a role is admin, operator, auditor, developer or app, not 'admn'; did you mean 'admin'?
id.yaml:9: a role is admin, operator, auditor, developer or app, not 'king'
id.yaml:10: 'tenant' may not begin with 'key_': that is how tenants without a name are called
id.yaml:11: 'tenants' should be a text, or a list of some, not an empty list
id.yaml:12: 'allow_private' should be true or false, not 'maybe'
id.yaml:13: HS algorithms may not stand beside those of public keys
id.yaml:14: its keys would be fetched without TLS, so that anyone on the way could put in their own: use https, or set 'allow_private'
id.yaml:14: the issuer 'http://plain.example.com' stands twice
id.yaml:15: 'secret_file': /nowhere/secret: cannot be read: there is no such file
id.yaml:16: 'jwks_url', 'jwks_file' and 'secret_file' exclude one another: keep one
id.yaml:17: an issuer should be `name: value` pairs, not '5'
id.yaml:19: a rule for certificates needs a 'match', a pattern that begins with URI:, DNS: or email:
id.yaml:20: 'roles' should be a role, or a list of some, not an empty list
id.yaml:20: 'tenant' has $1, which stands for the first * of 'match': there is none
id.yaml:21: 'tenant' may not begin with 'jwt_': that is how tenants without a name are called
id.yaml:21: a rule for certificates needs a 'match', a pattern that begins with URI:, DNS: or email:
id.yaml:23: 'effect' should be one of allow, deny, not 'permit'
id.yaml:24: a rule needs an 'effect': allow or deny
id.yaml:28: 'when' has no 'tennant'; did you mean 'tenant'?
id.yaml:29: 'role' should fit one of admin, operator, auditor, developer, app, not 'ap'
id.yaml:30: 'proof' should fit one of loopback, key, jwt, mtls, not 'password'
id.yaml:31: 'source': '10.0.0.1/8' has bits beyond its prefix: name the network's first address
id.yaml:32: 'days' should be one of mon, tue, wed, thu, fri, sat, sun, not 'monday'
id.yaml:32: 'from' should be a time of the day (UTC) such as "08:30", not '25:00'
id.yaml:32: 'time' (in UTC) has no 'zone': it has days, from, to
id.yaml:32: 'to' should be a time of the day (UTC) such as "08:30", not '8'
id.yaml:33: 'tags' names no tag: leave it out
id.yaml:34: 'unless' has no condition: leave it out
id.yaml:35: an identity file has no 'isuers'; did you mean 'issuers'?)");
}

TEST(IdentityConfig, SaysWhatNoListHolds) {
  EXPECT_THAT(why("issuers: {}"), HasSubstr("id.yaml:1: 'issuers' should be a list, not a map"));
  EXPECT_THAT(why("policy: 7"), HasSubstr("id.yaml:1: 'policy' should be a list, not '7'"));
  EXPECT_THAT(why("[]"), HasSubstr("id.yaml:1: an identity file should be `name: value` pairs, not an empty list"));
  EXPECT_THAT(why("policy: [{effect: deny, effect: allow}]"), HasSubstr("id.yaml:1: 'effect' stands twice"));
  EXPECT_THAT(why(std::string(2 << 20, ' ')), HasSubstr("larger than 1 MiB"));
  for (const char* fine : {"", "# nothing", "{}", "issuers:\ncertificates:\npolicy:\n", R"({"policy": []})"})
    EXPECT_EQ(why(fine), "made") << fine;
}

TEST(IdentityConfig, PrioritiesAreOfNamesThatAreAsked) {
  const auto config = parse_identity_config(R"(
issuers:
  - issuer: https://login.example.com
    audience: ashlar
    claims: {priority: tier}
    priorities: {gold: -5, free: 0}
    min_priority: -1
certificates:
  - {match: "DNS:urgent.example", min_priority: -7}
)");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->issuers.at(0).rules.min_priority, -1);
  EXPECT_EQ(config->issuers.at(0).rules.priorities.at("gold"), -5);
  EXPECT_EQ(config->certificates.at(0).min_priority, -7);
  EXPECT_EQ(
      why(R"(issuers:
  - issuer: https://login.example.com
    audience: ashlar
    priorities: {gold: 5}
    min_priority: -9999999
  - issuer: https://other.example.com
    audience: ashlar
    claims: {priority: tier}
)"),
      "id.yaml:4: 'priorities' says what the words of a claim are here, and 'priority' of 'claims' which claim that "
      "is: write both, or neither\n"
      "id.yaml:4: 'priorities' should be a whole number from -1000000 to 0, not '5'\n"
      "id.yaml:5: 'min_priority' should be a whole number from -1000000 to 0, not '-9999999'\n"
      "id.yaml:8: 'priorities' says what the words of a claim are here, and 'priority' of 'claims' which claim that "
      "is: write both, or neither");
}

// Also of files that are not there: they may come.
TEST(IdentityConfig, NamesTheFilesThatAreAPartOfIt) {
  std::vector<std::string> beside;
  const auto config = parse_identity_config(
      "issuers: [{issuer: a, audience: b, secret_file: /nowhere/a}, {issuer: b, audience: b, jwks_file: /nowhere/b}]",
      "id.yaml", &beside);
  EXPECT_FALSE(config);
  EXPECT_THAT(beside, testing::ElementsAre("/nowhere/a", "/nowhere/b"));
}

}  // namespace
}  // namespace ashlar::gateway
