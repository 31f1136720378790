// Every route asks who sends: kept keys, tokens, certificates, roles and rules.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/api.h"
#include "api/fakes_for_test.h"
#include "api/routes.h"
#include "base/json_full.h"
#include "gateway/identity/fakes_for_test.h"
#include "gateway/identity/identity.h"
#include "store/databases_for_test.h"

namespace ashlar::api {
namespace {

using gateway::KeyRecord;
using gateway::Role;
using testing::HasSubstr;

const std::string kSecret(32, 's');

class Identified : public testing::Test {
 protected:
  Identified() {
    database = *store::open_database(place.where());
    keys = *gateway::KeyStore::open(*database);
    ring = *gateway::KeyRing::open(*keys);
  }
  // Opens the server, once the keys are there.
  void open(const std::string& config = "", ApiOptions options = {}) {
    auto parsed = gateway::parse_identity_config(config);
    ASSERT_TRUE(parsed) << parsed.error().message;
    ASSERT_TRUE(ring->reload());
    world = std::make_unique<World>(options, *gateway::Identity::create(std::move(*parsed), ring.get()));
  }
  void open_with_issuer() {
    gateway::IssuerOptions issuer;
    issuer.rules.issuer = "backend";
    issuer.rules.audiences = {"ashlar"};
    issuer.rules.algorithms = {"HS256"};
    issuer.rules.claims.roles = "roles";
    issuer.rules.claims.tenant = "tenant";
    issuer.rules.role_names = {{"boss", Role::admin}};
    issuer.keys = {*gateway::Jwk::of_secret(kSecret)};
    gateway::IdentityConfig config;
    config.issuers.push_back(std::move(issuer));
    world = std::make_unique<World>(ApiOptions{}, *gateway::Identity::create(std::move(config), ring.get()));
  }
  std::string create(KeyRecord record) { return keys->create(std::move(record))->text; }
  std::string token(Json more = Json::object(), const std::string& secret = kSecret) {
    Json claims = {
        {"iss", "backend"}, {"aud", "ashlar"}, {"sub", "ann"}, {"exp", gateway::system_unix_seconds() + 300}};
    if (more.is_object()) claims.update(more);
    return gateway::hmac_token(secret, R"({"alg":"HS256"})", dump_json(claims));
  }
  std::shared_ptr<RecordingExchange> ask(const std::string& key, const std::string& method = "GET",
                                         const std::string& path = "/v1/models", const std::string& body = "{}",
                                         net::Headers headers = {}) {
    if (!key.empty()) headers.emplace_back("authorization", "Bearer " + key);
    return world->ask(method, path, body, std::move(headers));
  }
  std::string tenant_of(const std::string& key, net::Headers headers = {}) {
    EXPECT_EQ(ask(key, "POST", "/v1/completions", R"({"prompt":"a"})", std::move(headers))->status(), 200);
    return world->generator.seen().back().tenant;
  }

  store::PlaceForTest place{store::Dialect::sqlite};
  std::unique_ptr<store::Database> database;
  std::unique_ptr<gateway::KeyStore> keys;
  std::unique_ptr<gateway::KeyRing> ring;
  std::unique_ptr<World> world;
};

std::string path_of(const Route& route) {
  return route.path.ends_with('*') ? std::string(route.path.substr(0, route.path.size() - 1)) + "x"
                                   : std::string(route.path);
}

TEST_F(Identified, EveryRouteIsOpenByNameOrAsksWho) {
  std::map<Role, std::string> keys_of;
  for (const Role role : {Role::admin, Role::operator_, Role::auditor, Role::developer, Role::app})
    keys_of[role] = create({.roles = {role}});
  open();
  const std::set<std::string_view> open_paths = {"/health", "/v1/health", "/ping", "/version", "/"};
  for (const Route& route : routes()) {
    const std::string method(route.method), path = path_of(route);
    EXPECT_EQ(route.scope == Scope::open, open_paths.contains(route.path)) << path;
    for (const std::string& wrong : {std::string(), std::string("sk-x"), gateway::make_api_key().text, token()})
      EXPECT_EQ(ask(wrong, method, path)->status() == 401, route.scope != Scope::open) << path;
    for (const auto& [role, key] : keys_of) {
      const bool may = gateway::roles_of(route.scope).has(role);
      EXPECT_EQ(ask(key, method, path)->status() == 403, !may) << path << " " << name(role);
    }
  }
  EXPECT_EQ(ask("", "GET", "/nowhere")->status(), 401);
  EXPECT_EQ(ask(keys_of[Role::app], "GET", "/nowhere")->status(), 404);
  EXPECT_EQ(ask(keys_of[Role::app], "PUT", "/metrics")->status(), 405);
  EXPECT_EQ(ask("", "HEAD", "/metrics")->status(), 401);
}

TEST_F(Identified, WhoMayBeUrgentIsSaidByTheKey) {
  const auto usual = create({.roles = {Role::app}}), urgent = create({.roles = {Role::app}, .min_priority = -1}),
             admin = create({.roles = {Role::admin}});
  open();
  for (const std::string path : {"/v1/completions", "/v1/chat/completions"})
    for (const auto& [key, wanted] : {std::pair{usual, 0}, {urgent, -1}, {admin, -9}}) {
      const std::string body = R"({"priority":-9,"prompt":"a","messages":[{"role":"user","content":"a"}]})";
      EXPECT_EQ(ask(key, "POST", path, body)->status(), 200);
      EXPECT_EQ(world->generator.seen().back().priority, wanted) << path;
    }
}

TEST_F(Identified, WithoutKeysNothingChanges) {
  open();
  EXPECT_EQ(ask("")->status(), 200);
  EXPECT_EQ(ask("", "GET", "/metrics")->status(), 200);
  EXPECT_EQ(tenant_of(""), "");
  // The first key closes the server that runs.
  const auto key = create({});
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(ask("")->status(), 401);
  EXPECT_EQ(ask(key)->status(), 200);
}

TEST_F(Identified, KeysOfTheCommandLineStandBesideThoseThatAreKept) {
  const auto kept = create({.tenant = "acme"});
  open("", {.api_key = {"sk-one"}});
  EXPECT_EQ(ask("sk-one")->status(), 200);
  EXPECT_EQ(ask("sk-one", "GET", "/metrics")->status(), 200) << "it is the owner's";
  EXPECT_EQ(tenant_of(kept), "acme");
  EXPECT_EQ(ask("sk-two")->status(), 401);
  EXPECT_EQ(world->ask("GET", "/v1/models", "", {{"x-api-key", kept}})->status(), 200);
}

TEST_F(Identified, NoHeaderNamesATenant) {
  const auto key = create({.tenant = "acme"});
  open();
  for (const char* header :
       {"x-tenant", "x-tenant-id", "x-team", "x-user", "x-forwarded-user", "x-forwarded-client-cert", "x-ashlar-tenant",
        "x-auth-request-user", "x-role", "openai-organization", "openai-project"}) {
    EXPECT_EQ(tenant_of(key, {{header, "evil"}}), "acme") << header;
    EXPECT_EQ(world->ask("GET", "/v1/models", "", {{header, "acme"}})->status(), 401) << header;
  }
  EXPECT_EQ(
      world->ask("GET", "/v1/models", "", {{"x-forwarded-for", "127.0.0.1"}, {"x-real-ip", "127.0.0.1"}})->status(),
      401);
}

TEST_F(Identified, OnlyWhoOperatesNamesPromptsForARouter) {
  const auto app = create({.roles = {Role::app}}), front = create({.roles = {Role::operator_}});
  open();
  const auto salt_of = [&](const std::string& key, const char* salt) {
    tenant_of(key, {{"x-ashlar-prefix-salt", salt}});
    return world->generator.seen().back().prefix_salt;
  };
  EXPECT_EQ(salt_of(front, "00000000000000ff"), 255U);
  EXPECT_EQ(salt_of(app, "00000000000000ff"), std::nullopt);
  for (const char* wrong : {"", "xyz", "-1", "10000000000000000", "1 "}) EXPECT_EQ(salt_of(front, wrong), std::nullopt);
}

TEST_F(Identified, AKeyReachesItsModelsAlone) {
  const auto none = create({.models = {"other-*"}}), some = create({.models = {"ti*"}});
  open();
  const auto refused =
      ask(none, "POST", "/v1/chat/completions", R"({"model":"tiny","messages":[{"role":"user","content":"x"}]})");
  EXPECT_EQ(refused->status(), 403);
  EXPECT_EQ(refused->json()["error"]["code"], "model_not_allowed");
  for (const auto& [path, body] : std::initializer_list<std::pair<const char*, const char*>>{
           {"/v1/completions", R"({"prompt":"a"})"},
           {"/v1/completions", R"({"model":"tiny","prompt":"a"})"},
           {"/tokenize", R"({"prompt":"a"})"},
           {"/detokenize", R"({"tokens":[97]})"},
           {"/apply-template", R"({"messages":[{"role":"user","content":"x"}]})"},
           {"/v1/embeddings", R"({"input":"a"})"},
           {"/v1/rerank", R"({"query":"a","documents":["b"]})"}})
    EXPECT_EQ(ask(none, "POST", path, body)->status(), 403) << path;
  EXPECT_EQ(ask(none)->json()["data"].size(), 0u);
  EXPECT_EQ(ask(none, "GET", "/v1/models/tiny")->status(), 404);
  EXPECT_EQ(ask(some, "POST", "/v1/completions", R"({"prompt":"a"})")->status(), 200);
  EXPECT_EQ(ask(some)->json()["data"].size(), 1u);
}

TEST_F(Identified, AnswersAreCappedByTheKey) {
  const auto key = create({.output_cap = 3});
  open();
  const auto most = [&](const std::string& path, const std::string& body) {
    EXPECT_EQ(ask(key, "POST", path, body)->status(), 200);
    return world->generator.seen().back().stopping.max_tokens;
  };
  EXPECT_EQ(most("/v1/completions", R"({"prompt":"a"})"), 3);
  EXPECT_EQ(most("/v1/completions", R"({"prompt":"a","max_tokens":2})"), 2);
  EXPECT_EQ(most("/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}]})"), 3);
  EXPECT_EQ(most("/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"max_tokens":1000})"), 3);
  EXPECT_EQ(ask(key, "POST", "/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"min_tokens":9})")
                ->status(),
            400);
}

TEST_F(Identified, RulesDenyAndSayWhich) {
  const auto app = create({.tenant = "acme", .roles = {Role::app}, .networks = {"192.0.2.0/24"}});
  open(R"(
policy:
  - {name: small only, effect: deny, when: {tenant: acme}, unless: {model: "small-*"}}
  - {name: no secrets, effect: deny, when: {data_class: secret}}
)");
  const auto refused = ask(app, "POST", "/v1/completions", R"({"model":"tiny","prompt":"a"})");
  EXPECT_EQ(refused->status(), 403);
  EXPECT_THAT(refused->body(), HasSubstr("the rule 'small only' denies it"));
  EXPECT_EQ(ask(app)->json()["data"].size(), 0u);
  EXPECT_THAT(ask(app, "GET", "/v1/models", "", {{"x-ashlar-data-class", "secret"}})->body(), HasSubstr("no secrets"));
  world->peer = "198.51.100.1:5000";
  EXPECT_EQ(ask(app)->status(), 401) << "another network";
}

TEST_F(Identified, TokensAreTakenBesideKeys) {
  open_with_issuer();
  EXPECT_EQ(ask("")->status(), 401);
  EXPECT_EQ(ask(token())->status(), 200);
  EXPECT_EQ(ask(token(), "GET", "/metrics")->status(), 403);
  EXPECT_EQ(ask(token({{"roles", {"boss"}}}), "GET", "/metrics")->status(), 200);
  EXPECT_EQ(ask(token({{"roles", {"admin"}}}), "GET", "/metrics")->status(), 403)
      << "the issuer's word for it is 'boss'";
  EXPECT_EQ(tenant_of(token({{"tenant", "acme"}})), "acme");
  EXPECT_THAT(tenant_of(token()), testing::StartsWith("jwt_"));
  for (const std::string& wrong :
       {token({{"exp", 1}}), token({{"nbf", 9'999'999'999}}), token({{"aud", "other"}}),
        token({}, std::string(32, 't')), token({{"tenant", "a\nb"}}), std::string("ey.ey.ey"), token() + "x"})
    EXPECT_EQ(ask(wrong)->status(), 401) << wrong;
  EXPECT_THAT(ask(token({{"exp", 1}}))->body(), HasSubstr("it has expired"));
  EXPECT_THAT(ask("ey.ey.ey")->body(), HasSubstr("the token is not valid\""));
}

TEST_F(Identified, CertificatesAreAskedWhereNoKeyIsShown) {
  const auto key = create({.tenant = "by-key"});
  open(R"(certificates: [{match: "URI:spiffe://prod/ns/*/sa/*", tenant: "$1"}])");
  const auto ask_as = [&](std::vector<std::string> names, net::Headers headers = {}) {
    auto exchange = std::make_shared<RecordingExchange>(
        net::HttpRequest{.method = "POST",
                         .path = "/v1/completions",
                         .headers = std::move(headers),
                         .body = R"({"prompt":"a"})",
                         .tls = true,
                         .peer_names = std::make_shared<const std::vector<std::string>>(std::move(names))});
    world->api->handler()(exchange);
    exchange->wait_ended();
    return exchange->status();
  };
  EXPECT_EQ(ask_as({"URI:spiffe://prod/ns/search/sa/app"}), 200);
  EXPECT_EQ(world->generator.seen().back().tenant, "search");
  EXPECT_EQ(ask_as({"DNS:else"}), 401);
  EXPECT_EQ(ask_as({}), 401);
  EXPECT_EQ(ask_as({"URI:spiffe://prod/ns/search/sa/app"}, {{"authorization", "Bearer " + key}}), 200);
  EXPECT_EQ(world->generator.seen().back().tenant, "by-key");
  EXPECT_EQ(ask_as({"URI:spiffe://prod/ns/search/sa/app"}, {{"authorization", "Bearer wrong"}}), 401);
}

TEST_F(Identified, AServerWithKeysMayListenToTheNetwork) {
  EXPECT_FALSE(Api::create({}, "0.0.0.0", *gateway::Identity::create({}, ring.get())));
  create({});
  ASSERT_TRUE(ring->reload());
  EXPECT_TRUE(Api::create({}, "0.0.0.0", *gateway::Identity::create({}, ring.get())));
}

}  // namespace
}  // namespace ashlar::api
