// The admin API: who may, what is taken, what is written down, and the document about it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <set>

#include "api/admin.h"
#include "api/admin_table.h"
#include "api/api.h"
#include "api/fakes_for_test.h"
#include "api/replays.h"
#include "api/schema.h"
#include "base/json_full.h"
#include "gateway/events/kept_events.h"
#include "gateway/identity/identity.h"
#include "store/databases_for_test.h"

namespace ashlar::api {
namespace {

using gateway::Role;
using gateway::Scope;
using testing::HasSubstr;

Json schema(const char* text) { return *parse_json(text); }

// Says what it was called with.
AdminOperation echo(std::string method, std::string path, Scope scope = Scope::admin, Json body = {}) {
  AdminOperation out{.method = std::move(method), .path = std::move(path), .scope = scope, .body = std::move(body)};
  out.id = out.method + out.path;
  out.tag = "echo";
  out.summary = "Say it again.";
  out.run = [id = out.id](const AdminCall& call, const AdminDone& done) {
    Json path = Json::object(), query = Json::object();
    for (const auto& [name, value] : call.path) path[name] = value;
    for (const auto& [name, value] : call.query) query[name] = value;
    done(Json{{"operation", id}, {"path", path}, {"query", query}, {"body", call.body}});
  };
  return out;
}

class Admin : public testing::Test {
 protected:
  void open(std::vector<AdminOperation> operations, ApiOptions options = {},
            std::unique_ptr<gateway::Identity> identity = nullptr) {
    world = std::make_unique<World>(options, std::move(identity));
    world->api->set_admin(std::move(operations), events.get());
  }
  Json ask(const std::string& method, const std::string& path, const std::string& body = "", int status = 200) {
    std::string plain = path, query;
    if (const auto mark = path.find('?'); mark != path.npos)
      plain = path.substr(0, mark), query = path.substr(mark + 1);
    auto exchange = std::make_shared<RecordingExchange>(net::HttpRequest{
        .method = method, .path = plain, .query = query, .headers = headers, .body = body, .peer = "127.0.0.1:5000"});
    world->api->handler()(exchange);
    exchange->wait_ended();
    EXPECT_EQ(exchange->status(), status) << method << " " << path << ": " << exchange->body();
    last = exchange;
    return exchange->json();
  }

  std::unique_ptr<gateway::KeptEvents> events = *gateway::KeptEvents::open(nullptr);
  net::Headers headers;
  std::shared_ptr<RecordingExchange> last;
  std::unique_ptr<World> world;
};

TEST_F(Admin, TheBestTemplateIsMeant) {
  open({echo("GET", "/admin/v1/keys"), echo("GET", "/admin/v1/keys/{id}"), echo("POST", "/admin/v1/keys/{id}/rotate"),
        echo("PUT", "/admin/v1/a/{one}/b/{two}"), echo("GET", "/admin/v1/keys/all")});
  EXPECT_EQ(ask("GET", "/admin/v1/keys")["operation"], "GET/admin/v1/keys");
  EXPECT_EQ(ask("GET", "/admin/v1/keys/k1")["path"]["id"], "k1");
  EXPECT_EQ(ask("GET", "/admin/v1/keys/org/model")["path"]["id"], "org/model");
  EXPECT_EQ(ask("GET", "/admin/v1/keys/all")["operation"], "GET/admin/v1/keys/all");
  EXPECT_EQ(ask("POST", "/admin/v1/keys/org/m/rotate")["path"]["id"], "org/m");
  EXPECT_EQ(ask("PUT", "/admin/v1/a/x/y/b/z")["path"]["one"], "x/y");
  for (const char* path : {"/admin/v1/keys/", "/admin/v1/", "/admin/v1/nothing", "/admin/", "/admin/v1/a//b/x"})
    ask("GET", path, "", 404);
  ask("GET", "/admin/v1/" + std::string(5'000, 'x'), "", 404);
  std::string deep = "/admin/v1/keys";
  for (int i = 0; i < 1'000; ++i) deep += "/b";
  ask("GET", deep, "", 404);
  ask("DELETE", "/admin/v1/keys/k1", "", 405);
  EXPECT_EQ(last->header("allow"), "GET, HEAD");
  ask("GET", "/admin/v1/keys/k1/rotate", "", 405);
  EXPECT_EQ(last->header("allow"), "POST");
  EXPECT_EQ(last->header("cache-control"), "");
}

TEST_F(Admin, UntilItIsGivenItSaysToWait) {
  world = std::make_unique<World>();
  ask("GET", "/admin/v1/keys", "", 503);
  world->api->set_admin({echo("GET", "/admin/v1/keys")}, nullptr);
  ask("GET", "/admin/v1/keys");
  EXPECT_EQ(last->header("cache-control"), "no-store");
}

TEST_F(Admin, EveryOperationAsksWho) {
  store::PlaceForTest place{store::Dialect::sqlite};
  const auto database = *store::open_database(place.where());
  const auto keys = *gateway::KeyStore::open(*database);
  std::map<Role, std::string> keys_of;
  for (const Role role : {Role::admin, Role::operator_, Role::auditor, Role::developer, Role::app})
    keys_of[role] = keys->create({.roles = {role}})->text;
  const auto ring = *gateway::KeyRing::open(*keys);
  open({echo("GET", "/admin/v1/a", Scope::audit), echo("POST", "/admin/v1/b", Scope::operate),
        echo("POST", "/admin/v1/c", Scope::admin, schema(R"({"type":"object","required":["x"]})"))},
       {}, *gateway::Identity::create({}, ring.get()));
  const auto status = [&](Role role, const char* method, const char* path, const char* body = "") {
    headers = {{"authorization", "Bearer " + keys_of[role]}};
    auto exchange = world->ask(method, path, body, headers);
    return exchange->status();
  };
  using enum Role;
  const std::map<Role, std::array<int, 3>> wanted = {{admin, {200, 200, 400}},
                                                     {operator_, {200, 200, 403}},
                                                     {auditor, {200, 403, 403}},
                                                     {developer, {403, 403, 403}},
                                                     {app, {403, 403, 403}}};
  for (const auto& [role, statuses] : wanted) {
    EXPECT_EQ(status(role, "GET", "/admin/v1/a"), statuses[0]) << name(role);
    EXPECT_EQ(status(role, "POST", "/admin/v1/b"), statuses[1]) << name(role);
    EXPECT_EQ(status(role, "POST", "/admin/v1/c", "{{{"), statuses[2]) << name(role) << ", before anything is parsed";
    EXPECT_EQ(status(role, "GET", "/admin/v1/openapi.json"), statuses[0]) << name(role);
    const bool sees = statuses[0] == 200;
    EXPECT_EQ(status(role, "GET", "/admin/v1/none"), sees ? 404 : 403) << "who may not look learns nothing";
    EXPECT_EQ(status(role, "PUT", "/admin/v1/a"), sees ? 405 : 403);
  }
  EXPECT_EQ(world->ask("GET", "/admin/v1/a")->status(), 401);
  EXPECT_EQ(world->ask("GET", "/admin/v1/none")->status(), 401);
}

TEST_F(Admin, ABodyThatDoesNotFitIsRefusedWithAName) {
  open({echo("POST", "/admin/v1/x", Scope::admin, schema(R"({"type":"object","required":["name"],
    "additionalProperties":false,"properties":{
      "name":{"type":"string","minLength":1,"maxLength":5},"count":{"type":"integer","minimum":1,"maximum":9},
      "role":{"type":"string","enum":["a","b"]},"list":{"type":"array","items":{"type":"string"},"maxItems":2},
      "inner":{"type":"object","additionalProperties":{"type":"number"}},"maybe":{"type":["string","null"]}}})")),
        echo("POST", "/admin/v1/none")});
  EXPECT_EQ(ask("POST", "/admin/v1/x", R"({"name":"añbñc","count":9,"maybe":null,"inner":{"a":0.5}})")["body"]["count"],
            9);
  const std::pair<std::string, std::string> wrong[] = {
      {R"({})", "name"},
      {"", "name"},
      {R"({"name":5})", "name"},
      {R"({"name":"abcdef"})", "name"},
      {R"({"name":""})", "name"},
      {R"({"name":"a","count":0})", "count"},
      {R"({"name":"a","count":1.5})", "count"},
      {R"({"name":"a","count":"1"})", "count"},
      {R"({"name":"a","role":"c"})", "role"},
      {R"({"name":"a","list":["x",1]})", "list[1]"},
      {R"({"name":"a","list":["x","y","z"]})", "list"},
      {R"({"name":"a","inner":{"b":"x"}})", "inner.b"},
      {R"({"name":"a","more":1})", "more"},
      {R"({"name":"a","maybe":1})", "maybe"},
      {R"({"name":null})", "name"},
      {R"(["name"])", ""},
      {R"({"name":"a","name":"b"})", ""},
      {"{", ""},
      {"\xff", ""},
  };
  for (const auto& [body, param] : wrong) {
    const Json answer = ask("POST", "/admin/v1/x", body, 400);
    EXPECT_EQ(answer["error"]["param"], param.empty() ? Json() : Json(param)) << body;
    EXPECT_FALSE(answer["error"]["message"].get<std::string>().empty());
  }
  ask("POST", "/admin/v1/x", std::string(100'000, '['), 400);
  ask("POST", "/admin/v1/x", R"({"name":")" + std::string(2 << 20, 'x') + "\"}", 413);
  ask("POST", "/admin/v1/none", R"({"a":1})", 400);
  ask("POST", "/admin/v1/none", "{}");
}

TEST_F(Admin, AQueryIsCheckedToo) {
  AdminOperation operation = echo("GET", "/admin/v1/x");
  operation.parameters = schema(R"([{"name":"limit","schema":{"type":"integer","minimum":1,"maximum":9}},
    {"name":"kind","schema":{"type":"string","maxLength":5}}])");
  open({operation, echo("GET", "/admin/v1/none")});
  EXPECT_EQ(ask("GET", "/admin/v1/x?limit=5&kind=a%20b+c")["query"]["kind"], "a b c");
  EXPECT_EQ(ask("GET", "/admin/v1/x?limit=5&kind=1")["query"]["limit"], "5");
  for (const char* query : {"limit=0", "limit=x", "limit=1.5", "limit=[1]", "limit=", "limit=1&limit=2", "kind=abcdef",
                            "other=1", "%zz=1", "kind=%00", "limit=99999999999999999999"})
    ask("GET", "/admin/v1/x?" + std::string(query), "", 400);
  ask("GET", "/admin/v1/none?a=1", "", 400);
  std::string many;
  for (int i = 0; i < 100; ++i) many += "&kind=a";
  ask("GET", "/admin/v1/x?" + many, "", 400);
}

TEST_F(Admin, ChangesAreWrittenDownWithWhoAsked) {
  AdminOperation refused = echo("DELETE", "/admin/v1/x/{id}");
  refused.run = [](const AdminCall&, const AdminDone& done) { done(Fault({Code::not_found, "there is no such x"})); };
  AdminOperation quiet = echo("PUT", "/admin/v1/x/{id}");
  quiet.audited = false;
  open({echo("POST", "/admin/v1/x/{id}", Scope::admin, schema(R"({"type":"object"})")), echo("GET", "/admin/v1/x/{id}"),
        refused, quiet},
       {.api_key = {"sk-one"}});
  headers = {{"authorization", "Bearer sk-one"}, {"x-request-id", "r1"}};
  ask("POST", "/admin/v1/x/a", R"({"secret":"hunter2"})");
  ask("GET", "/admin/v1/x/a");
  ask("PUT", "/admin/v1/x/a");
  ask("DELETE", "/admin/v1/x/a", "", 404);
  const auto page = *events->list({});
  ASSERT_EQ(page.events.size(), 2u);
  const auto& done = page.events[1].event;
  EXPECT_EQ(done.kind, "admin.POST/admin/v1/x/{id}");
  EXPECT_EQ(done.subject, "a");
  EXPECT_THAT(done.actor, testing::StartsWith("key-"));
  EXPECT_EQ(done.details["members"], Json::array({"secret"}));
  EXPECT_EQ(done.details["request_id"], "r1");
  EXPECT_EQ(dump_json(gateway::json_of(page.events[1])).find("hunter2"), std::string::npos);
  EXPECT_EQ(page.events[0].event.severity, gateway::Severity::warning);
  EXPECT_THAT(page.events[0].event.message, HasSubstr("there is no such x"));
}

TEST_F(Admin, OperationsMayWaitAndOthersGoOn) {
  std::promise<void> gate;
  const auto opened = gate.get_future().share();
  AdminOperation slow = echo("POST", "/admin/v1/slow");
  slow.run = [opened](const AdminCall&, const AdminDone& done) {
    opened.wait();
    done(Json::object());
    done(Json::array());  // a second time is nothing
  };
  AdminOperation throwing = echo("POST", "/admin/v1/throws");
  throwing.run = [](const AdminCall&, const AdminDone&) { throw std::runtime_error("x"); };
  open({slow, throwing, echo("GET", "/admin/v1/quick")});
  const auto waiting = world->send("POST", "/admin/v1/slow");
  ask("GET", "/admin/v1/quick");
  EXPECT_EQ(waiting->status(), 0);
  gate.set_value();
  waiting->wait_ended();
  EXPECT_EQ(waiting->status(), 200);
  EXPECT_EQ(waiting->body(), "{}");
  ask("POST", "/admin/v1/throws", "", 500);
}

TEST_F(Admin, WhoSendsARequestAgainGetsTheFirstOnesAnswer) {
  std::atomic<int> made = 0;
  AdminOperation create = echo("POST", "/admin/v1/x", Scope::admin, schema(R"({"type":"object"})"));
  create.run = [&made](const AdminCall& call, const AdminDone& done) {
    if (call.body.contains("bad")) return done(Fault({Code::invalid, "no"}));
    done(Json{{"number", ++made}});
  };
  open({create});
  headers = {{"idempotency-key", "one"}};
  EXPECT_EQ(ask("POST", "/admin/v1/x", "{}")["number"], 1);
  EXPECT_EQ(ask("POST", "/admin/v1/x", "{}")["number"], 1);
  EXPECT_EQ(last->header("idempotent-replayed"), "true");
  ask("POST", "/admin/v1/x", R"({"other":1})", 422);
  headers = {{"idempotency-key", "two"}};
  ask("POST", "/admin/v1/x", R"({"bad":1})", 400);
  EXPECT_EQ(ask("POST", "/admin/v1/x", "{}")["number"], 2) << "what failed may be tried again";
  headers = {};
  EXPECT_EQ(ask("POST", "/admin/v1/x", "{}")["number"], 3);
  headers = {{"idempotency-key", std::string(300, 'k')}};
  ask("POST", "/admin/v1/x", "{}", 400);
}

TEST(Replays, AreForgottenAndBounded) {
  Replays replays;
  const auto start = Replays::Clock::now();
  EXPECT_FALSE(*replays.begin("a", "b", start));
  EXPECT_EQ(replays.begin("a", "b", start).error().status, 409);
  replays.end("a", "answer");
  EXPECT_EQ(**replays.begin("a", "b", start + std::chrono::minutes(9)), "answer");
  EXPECT_FALSE(*replays.begin("a", "b", start + std::chrono::minutes(11)));
  for (int i = 0; i < 3'000; ++i) EXPECT_FALSE(*replays.begin(std::to_string(i), "b", start));
  EXPECT_FALSE(*replays.begin("0", "b", start)) << "the oldest made room";
}

TEST_F(Admin, TheDocumentHasEveryRouteAndEveryReferenceLeadsSomewhere) {
  open({echo("GET", "/admin/v1/keys/{id}", Scope::audit),
        echo("POST", "/admin/v1/keys", Scope::admin, schema(R"({"type":"object"})"))});
  const Json document = ask("GET", "/admin/v1/openapi.json");
  EXPECT_EQ(document["openapi"], "3.1.0");
  for (const Route& route : routes()) {
    std::string path(route.path), method(route.method);
    if (path.ends_with('*')) path.replace(path.size() - 1, 1, "{model}");
    std::ranges::transform(method, method.begin(), [](unsigned char c) { return std::tolower(c); });
    EXPECT_TRUE(document["paths"].contains(path) && document["paths"][path].contains(method)) << method << " " << path;
  }
  EXPECT_EQ(document["paths"]["/admin/v1/keys/{id}"]["get"]["parameters"][0]["in"], "path");
  std::set<std::string> ids;
  for (const auto& [path, methods] : document["paths"].items())
    for (const auto& [method, operation] : methods.items()) {
      EXPECT_TRUE(ids.insert(operation["operationId"]).second) << operation["operationId"];
      EXPECT_TRUE(operation["responses"].contains("200")) << path;
    }
  const std::function<void(const Json&)> follow = [&](const Json& node) {
    if (node.is_object())
      if (const auto reference = node.find("$ref"); reference != node.end())
        EXPECT_NO_THROW(document.at(Json::json_pointer(reference->get<std::string>().substr(1)))) << *reference;
    for (const auto& each : node)
      if (each.is_structured()) follow(each);
  };
  follow(document);
}

}  // namespace
}  // namespace ashlar::api
