// The table of operations that the program serves, against roles, against its document, and against nothing being
// there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>

#include "api/admin_table.h"
#include "api/api.h"
#include "base/json_full.h"
#include "cli/admin/admin.h"
#include "cli/kept_budgets.h"
#include "gateway/identity/identity.h"
#include "gateway/limits/limits.h"
#include "store/databases_for_test.h"
#include "store/usage.h"

namespace ashlar::cli {
namespace {

using gateway::Role;
using testing::HasSubstr;

constexpr const char* kDocument = "docs/openapi.json";

class Answer final : public net::Exchange {
 public:
  explicit Answer(net::HttpRequest request) : request_(std::move(request)) {}
  const net::HttpRequest& request() const override { return request_; }
  void respond(int status, net::Headers, std::string body) override {
    const std::lock_guard lock(mutex_);
    status_ = status, body_ = std::move(body);
    ended_.notify_all();
  }
  void begin(int, net::Headers) override {}
  void write(std::string) override {}
  void end() override {}
  void on_gone(std::function<void()>) override {}

  int status() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return status_ != 0; });
    return status_;
  }
  Json json() {
    status();
    return Json::parse(body_);
  }

 private:
  const net::HttpRequest request_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int status_ = 0;
  std::string body_;
};

// A server's admin API over a database, without models.
class Administered : public testing::Test {
 protected:
  Administered() {
    database = *store::open_database(place.where());
    keys = *gateway::KeyStore::open(*database);
    teams = *gateway::TeamStore::open(*database);
    EXPECT_TRUE(store::migrate(*database, std::span(&store::usage_schema(), 1)));
    for (const Role role : {Role::admin, Role::operator_, Role::auditor, Role::developer, Role::app})
      keys_of[role] = keys->create({.name = std::string(gateway::name(role)), .roles = {role}})->text;
    ring = *gateway::KeyRing::open(*keys, gateway::system_unix_seconds, teams.get());
    events = *gateway::KeptEvents::open(database.get());
    budgets = *KeptBudgets::open(database.get(), {});
    counters = store::memory_counters();
    limits = *gateway::Limits::create(budgets->all(), *counters, {});
    budgets->begin([this](const auto& all) { return limits->apply(all); });
    AdminParts parts{.database = database.get(),
                     .keys = keys.get(),
                     .ring = ring.get(),
                     .teams = teams.get(),
                     .budgets = budgets->store(),
                     .events = events.get()};
    parts.standings = [this] { return budgets->standings(*counters); };
    parts.budgets_changed = [this] { EXPECT_TRUE(budgets->reload()); };
    api = *api::Api::create({}, "127.0.0.1", *gateway::Identity::create({}, ring.get()));
    api->set_admin(admin_operations(parts), events.get());
  }
  ~Administered() override {
    budgets->end();
    api.reset();
  }

  std::shared_ptr<Answer> ask_as(Role role, const std::string& method, const std::string& path,
                                 const std::string& body) {
    std::string plain = path, query;
    if (const auto mark = path.find('?'); mark != path.npos)
      plain = path.substr(0, mark), query = path.substr(mark + 1);
    auto answer = std::make_shared<Answer>(net::HttpRequest{.method = method,
                                                            .path = plain,
                                                            .query = query,
                                                            .headers = {{"authorization", "Bearer " + keys_of[role]}},
                                                            .body = body,
                                                            .peer = "127.0.0.1:5000"});
    api->handler()(answer);
    return answer;
  }
  Json ask(const std::string& method, const std::string& path, const Json& body = {}, int status = 200) {
    const auto answer = ask_as(Role::admin, method, path, body.is_null() ? "" : dump_json(body));
    EXPECT_EQ(answer->status(), status) << method << " " << path << ": " << dump_json(answer->json());
    return answer->json();
  }
  std::vector<std::string> kinds() {
    events->sync();
    std::vector<std::string> out;
    for (const auto& each : events->list({})->events) out.push_back(each.event.kind);
    return out;
  }

  store::PlaceForTest place{store::Dialect::sqlite};
  std::unique_ptr<store::Database> database;
  std::unique_ptr<gateway::KeyStore> keys;
  std::unique_ptr<gateway::TeamStore> teams;
  std::map<Role, std::string> keys_of;
  std::unique_ptr<gateway::KeyRing> ring;
  std::unique_ptr<gateway::KeptEvents> events;
  std::unique_ptr<KeptBudgets> budgets;
  std::unique_ptr<store::Counters> counters;
  std::unique_ptr<gateway::Limits> limits;
  std::unique_ptr<api::Api> api;
};

std::string filled(std::string path) {
  for (auto at = path.find('{'); at != path.npos; at = path.find('{'))
    path.replace(at, path.find('}') - at + 1, "nobody");
  return path;
}

TEST(AdminOperations, TheCommittedDocumentIsWhatTheProgramMakes) {
  const api::AdminTable table(admin_operations({}), nullptr);
  const std::string made = api::openapi(table.operations()).dump(1) + "\n";
  if (std::getenv("ASHLAR_WRITE_OPENAPI") != nullptr) std::ofstream(kDocument) << made;
  std::ifstream in(kDocument);
  std::stringstream kept;
  kept << in.rdbuf();
  EXPECT_TRUE(kept.str() == made) << kDocument
                                  << " is stale: run this test again with ASHLAR_WRITE_OPENAPI=1 and commit the file";
}

TEST(AdminOperations, AreWholeAndTheirNamesAreTheirOwn) {
  std::set<std::string> ids, places;
  for (const api::AdminOperation& each : admin_operations({})) {
    EXPECT_TRUE(ids.insert(each.id).second) << each.id;
    EXPECT_TRUE(places.insert(each.method + " " + each.path).second) << each.path;
    EXPECT_TRUE(each.run) << each.id;
    EXPECT_TRUE(each.path.starts_with("/admin/v1/")) << each.path;
    EXPECT_FALSE(each.summary.empty() || each.tag.empty() || each.answer.is_null()) << each.id;
    EXPECT_NE(each.scope, gateway::Scope::open) << each.id;
    EXPECT_NE(each.scope, gateway::Scope::use) << each.id;
    if (each.method != "GET") EXPECT_NE(each.scope, gateway::Scope::audit) << each.id << " changes something";
    if (!each.body.is_null()) EXPECT_EQ(each.body["additionalProperties"], false) << each.id;
  }
}

TEST_F(Administered, EveryOperationTakesItsRolesAndNoOthers) {
  for (const api::AdminOperation& each : admin_operations({}))
    for (const auto& [role, key] : keys_of) {
      const int status = ask_as(role, each.method, filled(each.path), "")->status();
      const bool may = gateway::roles_of(each.scope).has(role);
      EXPECT_EQ(status == 403, !may) << each.id << " as " << gateway::name(role);
      if (role == Role::app || role == Role::developer) EXPECT_EQ(status, 403) << each.id;
      EXPECT_NE(status, 401) << each.id;
      EXPECT_NE(status, 500) << each.id;
    }
}

TEST(AdminOperations, SayWhatIsMissingWhereNothingIsThere) {
  const auto api = *api::Api::create({}, "127.0.0.1");
  api->set_admin(admin_operations({}), nullptr);
  for (const api::AdminOperation& each : admin_operations({})) {
    auto answer = std::make_shared<Answer>(
        net::HttpRequest{.method = each.method,
                         .path = filled(each.path),
                         .body = each.id == "createTeam"     ? R"({"name":"a"})"
                                 : each.id == "createBudget" ? R"({"scope":"team","who":"a","dollars":1})"
                                 : each.id == "forceBreaker" ? R"({"breaker":"auto"})"
                                 : each.id == "checkConfig"  ? R"({"text":""})"
                                 : each.id == "scoreRollout" ? R"({"side":"canary","score":1})"
                                                             : "",
                         .peer = "127.0.0.1:5000"});
    api->handler()(answer);
    const int status = answer->status();
    EXPECT_TRUE(status == 200 || status == 404 || status == 503) << each.id << " " << status;
  }
}

TEST_F(Administered, AKeyLives) {
  const Json made =
      ask("POST", "/admin/v1/keys",
          {{"name", "laptop"}, {"team", "search"}, {"roles", {"app"}}, {"expires", "30d"}, {"tags", {{"a", "b"}}}});
  const std::string id = made["id"], secret = made["key"];
  EXPECT_TRUE(ring->find(secret, std::nullopt)) << "at once";
  const Json shown = ask("GET", "/admin/v1/keys/laptop");
  EXPECT_EQ(shown["id"], id);
  EXPECT_FALSE(shown.contains("key"));
  EXPECT_EQ(shown["tags"]["a"], "b");
  EXPECT_EQ(ask("GET", "/admin/v1/keys?team=search")["keys"].size(), 1u);
  EXPECT_EQ(ask("PATCH", "/admin/v1/keys/" + id, {{"blocked", true}})["state"], "blocked");
  EXPECT_FALSE(ring->find(secret, std::nullopt));
  EXPECT_EQ(ask("PATCH", "/admin/v1/keys/" + id,
                {{"blocked", false}, {"models", {"qwen*"}}, {"expires", nullptr}})["expires_at"],
            Json());
  EXPECT_FALSE((*ring->find(secret, std::nullopt))->may_use_model("llama"));
  const Json rotated = ask("POST", "/admin/v1/keys/" + id + "/rotate", {{"overlap", "0"}});
  EXPECT_TRUE(ring->find(rotated["key"].get<std::string>(), std::nullopt));
  EXPECT_FALSE(ring->find(secret, std::nullopt));
  EXPECT_EQ(ask("DELETE", "/admin/v1/keys/" + id)["deleted"], true);
  EXPECT_EQ(ask("DELETE", "/admin/v1/keys/" + id)["deleted"], false) << "again is no error";
  ask("GET", "/admin/v1/keys/" + id, {}, 404);
  EXPECT_THAT(kinds(), testing::ElementsAre("key.deleted", "key.rotated", "key.changed", "key.unblocked", "key.blocked",
                                            "key.created"));
  for (const auto& each : events->list({})->events) {
    EXPECT_EQ(each.event.actor, keys->find("admin")->id);
    EXPECT_EQ(each.event.subject, id);
    EXPECT_EQ(dump_json(gateway::json_of(each)).find(secret.substr(12)), std::string::npos);
  }
  ask("POST", "/admin/v1/keys", {{"roles", {"king"}}}, 400);
  ask("POST", "/admin/v1/keys", {{"networks", {"10.0.0.1/8"}}}, 400);
  ask("POST", "/admin/v1/keys", {{"expires", "soon"}}, 400);
  ask("POST", "/admin/v1/keys", {{"name", "a\nb"}}, 400);
  ask("PATCH", "/admin/v1/keys/" + id, {{"blocked", true}}, 404);
}

TEST_F(Administered, ATeamLives) {
  ask("POST", "/admin/v1/teams", {{"name", "search"}, {"members", {"ann"}}, {"models", {"qwen*"}}});
  ask("POST", "/admin/v1/teams", {{"name", "search"}}, 400);
  ask("POST", "/admin/v1/teams", Json::object(), 400);
  const std::string key = ask("POST", "/admin/v1/keys", {{"user", "ann"}})["key"];
  EXPECT_FALSE((*ring->find(key, std::nullopt))->may_use_model("llama"));
  EXPECT_EQ(ask("PATCH", "/admin/v1/teams/search", {{"blocked", true}})["state"], "blocked");
  EXPECT_FALSE(ring->find(key, std::nullopt));
  ask("POST", "/admin/v1/budgets", {{"scope", "team"}, {"who", "search"}, {"dollars", "1.5"}});
  EXPECT_EQ(ask("GET", "/admin/v1/teams/search")["budgets"][0]["capacity_nano_usd"], 1'500'000'000);
  EXPECT_EQ(ask("GET", "/admin/v1/teams")["teams"].size(), 1u);
  EXPECT_EQ(ask("DELETE", "/admin/v1/teams/search")["deleted"], true);
  EXPECT_EQ(ask("DELETE", "/admin/v1/teams/search")["deleted"], false);
  EXPECT_TRUE(ring->find(key, std::nullopt));
}

TEST_F(Administered, ABudgetHoldsWhenItsAnswerIsThere) {
  gateway::LimitsConfig file;
  file.prices = gateway::read_limits("prices: [{model: m, input: 1000000, output: 1000000}]")->prices;
  ASSERT_TRUE(budgets->set_file(file));
  const auto admit = [&](const std::string& team) {
    auto admission =
        limits->admit({.subject = {.key = "k", .team = team}, .model = "m", .prompt_tokens = 1, .max_tokens = 0});
    if (!admission) return false;
    admission->settle({.prompt = 1});
    return true;
  };
  EXPECT_TRUE(admit("search"));
  const Json made =
      ask("POST", "/admin/v1/budgets", {{"scope", "team"}, {"who", "search"}, {"name", "month"}, {"dollars", 2}});
  const std::string id = made["id"];
  EXPECT_TRUE(admit("search"));
  EXPECT_TRUE(admit("search"));
  EXPECT_FALSE(admit("search"));
  EXPECT_TRUE(admit("ads"));
  const Json standing = ask("GET", "/admin/v1/budgets")["budgets"][0];
  EXPECT_EQ(standing["id"], id);
  EXPECT_EQ(standing["spent_by"][0]["who"], "team 'search'");
  EXPECT_EQ(standing["spent_by"][0]["spent_nano_usd"], 2'000'000'000);
  EXPECT_EQ(standing["spent_by"][0]["left_nano_usd"], 0);
  ask("PATCH", "/admin/v1/budgets/" + id, {{"dollars", "3"}});
  EXPECT_TRUE(admit("search")) << "what was spent stays spent, and there is more";
  EXPECT_FALSE(admit("search"));
  EXPECT_EQ(ask("DELETE", "/admin/v1/budgets/" + id)["deleted"], true);
  EXPECT_EQ(ask("DELETE", "/admin/v1/budgets/" + id)["deleted"], false);
  EXPECT_TRUE(admit("search"));
  for (const Json& wrong :
       {Json{{"scope", "team"}, {"who", "x"}, {"dollars", -1}},
        Json{{"scope", "team"}, {"who", "x"}, {"dollars", "1e3"}},
        Json{{"scope", "model"}, {"who", "x"}, {"dollars", 1}}, Json{{"scope", "team"}, {"who", ""}, {"dollars", 1}},
        Json{{"scope", "team"}, {"dollars", 1}}})
    ask("POST", "/admin/v1/budgets", wrong, 400);
}

TEST_F(Administered, ABudgetMayBeSoft) {
  const Json made = ask("POST", "/admin/v1/budgets", {{"scope", "team"}, {"who", "search"}, {"dollars", 2}, {"soft", true}});
  EXPECT_EQ(made["soft"], true);
  EXPECT_EQ(made["alerts"], Json::array({100}));
  const std::string path = "/admin/v1/budgets/" + made["id"].get<std::string>();
  EXPECT_EQ(ask("PATCH", path, {{"alerts", {100, 1000}}})["alerts"], Json::array({100, 1000}));
  EXPECT_EQ(ask("GET", "/admin/v1/budgets")["budgets"][0]["soft"], true);
  ask("PATCH", path, {{"soft", false}}, 400);
  ask("PATCH", path, {{"alerts", {1001}}}, 400);
  EXPECT_EQ(ask("PATCH", path, {{"soft", false}, {"alerts", {80}}})["soft"], false);
}

// Another process makes one: this one follows by itself.
TEST_F(Administered, BudgetsOfOthersAreFollowed) {
  const auto others = *gateway::BudgetStore::open(*database);
  ASSERT_TRUE(others->create({.who = "search", .name = "month", .capacity = 0}));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (budgets->all().rules.empty() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(budgets->all().rules.size(), 1u);
}

TEST_F(Administered, EventsAreListedPageByPage) {
  for (int i = 0; i < 5; ++i) events->write({.kind = i % 2 == 0 ? "a.x" : "b.y", .subject = "s"});
  events->sync();
  const Json first = ask("GET", "/admin/v1/events?limit=3&subject=s");
  EXPECT_EQ(first["events"].size(), 3u);
  const Json second = ask("GET", "/admin/v1/events?limit=3&cursor=" + first["next_cursor"].dump());
  EXPECT_EQ(second["events"].size(), 2u);
  EXPECT_EQ(second["next_cursor"], Json());
  EXPECT_EQ(ask("GET", "/admin/v1/events?kind=a&since=1h&severity=info")["events"].size(), 3u);
  EXPECT_EQ(ask("GET", "/admin/v1/events?until=1h")["events"].size(), 0u);
  for (const char* wrong : {"limit=0", "limit=x", "since=soon", "severity=bad", "cursor=-1", "what=1"})
    ask("GET", std::string("/admin/v1/events?") + wrong, {}, 400);
}

TEST_F(Administered, UsageIsSummed) {
  int count = 0;
  for (const char* team : {"a", "a", "b"})
    ASSERT_TRUE(database->transact({*store::usage_insert(
        {.id = std::string(team) + std::to_string(++count), .at_ms = 5, .team = team, .model = "m", .cost_nano = 7})}));
  const Json sums = ask("GET", "/admin/v1/usage?by=team")["usage"];
  ASSERT_EQ(sums.size(), 2u);
  EXPECT_EQ(sums[0]["team"], "a");
  EXPECT_EQ(sums[0]["cost_nano_usd"], 14);
  EXPECT_EQ(ask("GET", "/admin/v1/usage?team=b&by=")["usage"][0]["requests"], 1);
  ask("GET", "/admin/v1/usage?by=colour", {}, 400);
  ask("GET", "/admin/v1/usage?by=a,b,c,d,e,f,g,h,i", {}, 400);
}

}  // namespace
}  // namespace ashlar::cli
