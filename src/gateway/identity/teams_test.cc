// Teams that are kept, and what they do to keys, tokens and certificates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "gateway/identity/identity.h"
#include "gateway/identity/team_store.h"
#include "store/databases_for_test.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

class TeamsOf : public testing::TestWithParam<store::Dialect> {
 protected:
  void SetUp() override {
    auto opened = store::open_database(place.where());
    ASSERT_TRUE(opened) << opened.error().message;
    database = std::move(*opened);
    keys = *KeyStore::open(*database);
    teams = *TeamStore::open(*database);
    ring = *KeyRing::open(*keys, system_unix_seconds, teams.get());
  }
  TeamRecord make(TeamRecord record) {
    auto made = teams->create(std::move(record));
    EXPECT_TRUE(made) << made.error().message;
    return made ? *made : TeamRecord{};
  }
  Result<Who> ask(const std::string& text) {
    EXPECT_TRUE(ring->reload());
    return ring->find(text, std::nullopt);
  }

  store::PlaceForTest place{GetParam()};
  std::unique_ptr<store::Database> database;
  std::unique_ptr<KeyStore> keys;
  std::unique_ptr<TeamStore> teams;
  std::unique_ptr<KeyRing> ring;
};

INSTANTIATE_TEST_SUITE_P(Both, TeamsOf, testing::Values(store::Dialect::sqlite, store::Dialect::postgres),
                         [](const auto& each) { return each.param == store::Dialect::sqlite ? "Sqlite" : "Postgres"; });

TEST_P(TeamsOf, AreMadeChangedAndForgotten) {
  make({.name = "search", .tenant = "acme", .description = "who finds", .members = {"ann"}, .models = {"qwen*"}});
  make({.name = "ads"});
  EXPECT_EQ(teams->create({.name = "search"}).error().code, Code::invalid);
  EXPECT_THAT(teams->create({.name = "x", .members = {"ann"}}).error().message, HasSubstr("'ann' is a member of"));
  const auto changed = teams->change("search", [](TeamRecord& team) -> Status {
    team.members.push_back("bob");
    team.name = "other";
    return {};
  });
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_EQ(changed->name, "search");
  const auto all = *teams->list();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].members, (std::vector<std::string>{"ann", "bob"}));
  EXPECT_EQ(all[1].description, "who finds");
  EXPECT_TRUE(teams->remove("ads"));
  EXPECT_EQ(teams->remove("ads").error().code, Code::not_found);
  EXPECT_EQ(teams->find("ads").error().code, Code::not_found);
  for (const TeamRecord& wrong :
       {TeamRecord{}, TeamRecord{.name = "a\nb"}, TeamRecord{.name = "t", .tenant = "key_x"},
        TeamRecord{.name = "t", .members = {""}}, TeamRecord{.name = "t", .members = {"cy", "cy"}},
        TeamRecord{.name = "t", .models = {std::string(1000, 'm')}}})
    EXPECT_EQ(teams->create(wrong).error().code, Code::invalid);
}

TEST_P(TeamsOf, ABlockedTeamsKeysAreRefusedAndOnlyThose) {
  make({.name = "search", .members = {"ann"}});
  const auto of_it = keys->create({.team = "search"})->text, by_user = keys->create({.user = "ann"})->text,
             other = keys->create({.team = "ads"})->text,
             elsewhere = keys->create({.user = "ann", .team = "ads"})->text;
  EXPECT_EQ((*ask(by_user))->team, "search");
  EXPECT_EQ((*ask(elsewhere))->team, "ads");
  const auto block = [&](bool blocked) {
    ASSERT_TRUE(teams->change("search", [&](TeamRecord& team) -> Status {
      team.blocked = blocked;
      return {};
    }));
  };
  block(true);
  for (const std::string& each : {of_it, by_user}) EXPECT_EQ(ask(each).error().code, Code::unauthorized);
  for (const std::string& each : {other, elsewhere}) EXPECT_TRUE(ask(each));
  block(false);
  EXPECT_TRUE(ask(of_it));
  // Without the test's reload(): the ring sees it by itself.
  block(true);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (ring->find(of_it, std::nullopt) && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_FALSE(ring->find(of_it, std::nullopt));
}

TEST_P(TeamsOf, TheirModelsAndTenantStandBesideTheKeys) {
  make({.name = "search", .tenant = "acme", .models = {"qwen*", "tiny"}});
  const Who all = *ask(keys->create({.team = "search"})->text);
  EXPECT_TRUE(all->may_use_model("qwen3"));
  EXPECT_TRUE(all->may_use_model("tiny"));
  EXPECT_FALSE(all->may_use_model("llama"));
  EXPECT_EQ(all->tenant, "acme");
  const Who some = *ask(keys->create({.team = "search", .tenant = "other", .models = {"tiny", "llama"}})->text);
  EXPECT_TRUE(some->may_use_model("tiny"));
  EXPECT_FALSE(some->may_use_model("qwen3")) << "the key says no";
  EXPECT_FALSE(some->may_use_model("llama")) << "the team says no";
  EXPECT_EQ(some->tenant, "other");
}

TEST_P(TeamsOf, CertificatesAndTokensAreOfThemToo) {
  make({.name = "search", .tenant = "acme", .members = {"ann"}, .models = {"qwen*"}});
  ASSERT_TRUE(ring->reload());
  IdentityConfig config;
  config.certificates = {{.match = "DNS:*.internal", .team = "$1"}, {.match = "email:*", .user = "$1"}};
  const auto identity = *Identity::create(std::move(config), ring.get());
  const auto ask_as = [&](std::string name) {
    Result<Who> out = Error{};
    identity->identify("", {.peer_names = std::make_shared<const std::vector<std::string>>(1, std::move(name))},
                       [&](Result<Who> who) { out = std::move(who); });
    return out;
  };
  EXPECT_FALSE((*ask_as("DNS:search.internal"))->may_use_model("llama"));
  EXPECT_EQ((*ask_as("email:ann"))->team, "search");
  EXPECT_EQ((*ask_as("email:ann"))->tenant, "acme");
  EXPECT_TRUE((*ask_as("DNS:ads.internal"))->may_use_model("llama"));
  ASSERT_TRUE(teams->change("search", [](TeamRecord& team) -> Status {
    team.blocked = true;
    return {};
  }));
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(ask_as("DNS:search.internal").error().code, Code::forbidden);
  EXPECT_EQ(ask_as("email:ann").error().code, Code::forbidden);
  EXPECT_TRUE(ask_as("DNS:ads.internal"));
}

TEST_P(TeamsOf, KeysAreEditedAndNoChangeIsLost) {
  const auto made = *keys->create({.name = "laptop", .models = {"a"}});
  bool once = true;
  const auto edited = keys->edit("laptop", [&](KeyRecord& key) -> Status {
    // Somebody else's change, between reading and writing.
    if (std::exchange(once, false)) EXPECT_TRUE(keys->set_blocked(made.record.id, true));
    key.models = {"b"};
    return {};
  });
  ASSERT_TRUE(edited) << edited.error().message;
  EXPECT_TRUE(edited->blocked);
  EXPECT_EQ(keys->find("laptop")->models, std::vector<std::string>{"b"});
  EXPECT_TRUE(keys->find("laptop")->blocked);
  const auto refused = keys->edit("laptop", [](KeyRecord& key) -> Status {
    key.output_cap = -1;
    return {};
  });
  EXPECT_EQ(refused.error().code, Code::invalid);
  EXPECT_EQ(keys->edit("nobody", [](KeyRecord&) -> Status { return {}; }).error().code, Code::not_found);
}

}  // namespace
}  // namespace ashlar::gateway
