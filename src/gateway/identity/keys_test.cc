// Keys: their text, the store, and the ring that requests meet.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "gateway/identity/key_ring.h"
#include "gateway/identity/key_store.h"
#include "store/databases_for_test.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

TEST(ApiKey, TellsATypoFromAWrongKey) {
  std::set<std::string> seen;
  for (int i = 0; i < 200; ++i) {
    const NewApiKey key = make_api_key();
    EXPECT_EQ(key.text.size(), 49u);
    EXPECT_TRUE(key.text.starts_with("ak-"));
    EXPECT_TRUE(key.text.starts_with(key.prefix));
    EXPECT_EQ(key.prefix.size(), 11u);
    EXPECT_EQ(judge_key_text(key.text), KeyText::whole);
    EXPECT_TRUE(seen.insert(key.text).second);
    for (std::size_t at = 3; at < key.text.size(); ++at) {
      std::string typo = key.text;
      typo[at] = typo[at] == 'x' ? 'y' : 'x';
      EXPECT_EQ(judge_key_text(typo), KeyText::mistyped) << typo;
    }
    EXPECT_EQ(judge_key_text(key.text.substr(0, 48)), KeyText::mistyped);
    EXPECT_EQ(judge_key_text(key.text + "a"), KeyText::mistyped);
  }
  EXPECT_EQ(judge_key_text("sk-something"), KeyText::foreign);
  EXPECT_EQ(judge_key_text(""), KeyText::foreign);
}

class Keys : public testing::TestWithParam<store::Dialect> {
 protected:
  Keys() {
    auto opened = store::open_database(place.where());
    EXPECT_TRUE(opened) << opened.error().message;
    database = std::move(*opened);
    store = *KeyStore::open(*database, clock());
    ring = *KeyRing::open(*store, clock());
  }
  std::function<std::int64_t()> clock() {
    return [this] { return now.load(); };
  }
  std::string create(KeyRecord record = {}) {
    auto made = store->create(std::move(record));
    EXPECT_TRUE(made) << made.error().message;
    EXPECT_TRUE(ring->reload());
    return made->text;
  }
  // The key's id, or why not.
  std::string ask(const std::string& text, const char* from = "192.0.2.1") {
    const auto who = ring->find(text, parse_address(from));
    return who ? (*who)->key_id : who.error().message;
  }

  store::PlaceForTest place{GetParam()};
  std::atomic<std::int64_t> now = 1'700'000'000;
  std::unique_ptr<store::Database> database;
  std::unique_ptr<KeyStore> store;
  std::unique_ptr<KeyRing> ring;
};
constexpr const char* kWrong = "the API key is not valid";

INSTANTIATE_TEST_SUITE_P(Twins, Keys, testing::Values(store::Dialect::sqlite, store::Dialect::postgres),
                         [](const auto& twin) {
                           return twin.param == store::Dialect::sqlite ? "SQLite" : "PostgreSQL";
                         });

TEST_P(Keys, StandForTheirOwner) {
  EXPECT_FALSE(ring->used());
  const auto text = create({.name = "laptop",
                            .user = "ann",
                            .team = "search",
                            .tenant = "acme",
                            .roles = {Role::app, Role::auditor},
                            .models = {"qwen*"},
                            .tags = {{"env", "prod"}},
                            .metadata = R"({"ticket":7})",
                            .output_cap = 100});
  EXPECT_TRUE(ring->used());
  const Who who = *ring->find(text, std::nullopt);
  EXPECT_EQ(who->user, "ann");
  EXPECT_EQ(who->team, "search");
  EXPECT_EQ(who->tenant, "acme");
  EXPECT_EQ(who->roles, (Roles{Role::app, Role::auditor}));
  EXPECT_TRUE(who->may_use_model("qwen3"));
  EXPECT_FALSE(who->may_use_model("llama"));
  EXPECT_EQ(who->tags, (Tags{{"env", "prod"}}));
  EXPECT_EQ(who->output_cap, 100);
  const auto kept = store->find("laptop");
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->metadata, R"({"ticket":7})");
  EXPECT_EQ(kept->created_at, now);
  const Who alone = *ring->find(create(), std::nullopt);
  EXPECT_EQ(alone->tenant, alone->key_id) << "without a tenant it is one alone";
}

TEST_P(Keys, AreAsUrgentAsTheyMay) {
  const Who usual = *ring->find(create({.name = "usual", .roles = {Role::app}}), std::nullopt);
  const Who urgent = *ring->find(create({.name = "urgent", .roles = {Role::app}, .min_priority = -2}), std::nullopt);
  const Who operating = *ring->find(create({.roles = {Role::operator_}}), std::nullopt);
  for (const auto& [claimed, usual_is, urgent_is] :
       {std::tuple{-7, 0, -2}, {-2, 0, -2}, {-1, 0, -1}, {0, 0, 0}, {5, 5, 5}}) {
    EXPECT_EQ(usual->priority(claimed), usual_is);
    EXPECT_EQ(urgent->priority(claimed), urgent_is);
    EXPECT_EQ(operating->priority(claimed), claimed);
  }
  ASSERT_TRUE(store->edit("urgent", [](KeyRecord& record) {
    record.min_priority = 0;
    return Status();
  }));
  EXPECT_EQ(store->find("urgent")->min_priority, 0);
  EXPECT_FALSE(store->create({.min_priority = 1}));
  EXPECT_FALSE(store->create({.min_priority = -2'000'000}));
}

// A database of a version that knew nothing of it.
TEST_P(Keys, OfBeforeAreUsual) {
  store::PlaceForTest old{GetParam()};
  auto before = *store::open_database(old.where());
  ASSERT_TRUE(KeyStore::open(*before));
  ASSERT_TRUE(KeyStore::open(*before)->get()->create({.name = "n"}));
  ASSERT_TRUE(before->transact({{.sql = "ALTER TABLE api_keys DROP COLUMN min_priority"},
                                {.sql = "UPDATE ashlar_schema SET version = 1 WHERE room = 'keys'"}}));
  const auto again = KeyStore::open(*before);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ((*again)->find("n")->min_priority, 0);
}

TEST_P(Keys, AreKeptAsHashesAlone) {
  const auto text = create({.name = "n"});
  const auto rows = database->query("SELECT * FROM api_keys");
  ASSERT_TRUE(rows);
  for (const auto& value : rows->rows.at(0)) {
    EXPECT_EQ(store::as_text(value).find(text.substr(11)), std::string::npos);
    EXPECT_EQ(store::as_bytes(value).find(text.substr(11)), std::string::npos);
  }
}

TEST_P(Keys, AreRefusedInTheSameWords) {
  const auto blocked = create({.name = "blocked"}), old = create({.name = "old", .expires_at = now + 10}),
             deleted = create({.name = "deleted"});
  const auto inside = create({.name = "inside", .networks = {"10.0.0.0/8", "2001:db8::/32"}});
  ASSERT_TRUE(store->set_blocked("blocked", true));
  ASSERT_TRUE(store->remove("deleted"));
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(ask(old), store->find("old")->id);
  now += 10;
  for (const auto& each : {blocked, old, deleted, make_api_key().text, inside}) EXPECT_EQ(ask(each), kWrong);
  EXPECT_EQ(ask(inside, "10.9.8.7"), store->find("inside")->id);
  EXPECT_EQ(ask(inside, "2001:db8:1::2"), store->find("inside")->id);
  EXPECT_EQ(ask(inside, "::ffff:10.9.8.7"), store->find("inside")->id);
  EXPECT_EQ(ask(inside, "11.0.0.1"), kWrong);
  EXPECT_FALSE(ring->find(inside, std::nullopt)) << "from nowhere is from outside";
  EXPECT_THAT(ask(inside.substr(0, 40)), HasSubstr("mistyped"));
  EXPECT_EQ(ask("sk-else"), kWrong);
  EXPECT_EQ(ask(""), kWrong);
  ASSERT_TRUE(store->set_blocked("blocked", false));
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(ask(blocked), store->find("blocked")->id);
}

TEST_P(Keys, RotateWithAnOverlap) {
  const auto first = create({.name = "n"});
  const auto id = store->find("n")->id;
  const auto second = store->rotate("n", std::chrono::hours(1));
  ASSERT_TRUE(second);
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(second->record.id, id);
  EXPECT_EQ(ask(first), id);
  EXPECT_EQ(ask(second->text), id);
  const auto third = store->rotate(id, std::chrono::seconds(0));
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(ask(first), kWrong) << "only one old key is valid";
  EXPECT_EQ(ask(second->text), kWrong);
  EXPECT_EQ(ask(third->text), id);
  const auto fourth = store->rotate(third->text, std::chrono::hours(1));
  ASSERT_TRUE(ring->reload());
  now += 3600;
  EXPECT_EQ(ask(third->text), kWrong);
  EXPECT_EQ(ask(fourth->text), id);
  ASSERT_TRUE(store->set_blocked(id, true));
  now -= 3600;
  ASSERT_TRUE(ring->reload());
  EXPECT_EQ(ask(third->text), kWrong) << "blocked, both of them";
  EXPECT_EQ(store->find(third->text)->id, id) << "the old text finds it, too";
  EXPECT_FALSE(store->rotate("none", std::chrono::hours(1)));
}

TEST_P(Keys, AnotherProcessIsNoticed) {
  const auto text = create({.name = "n"});
  auto elsewhere = *store::open_database(place.where());
  const auto other = *KeyStore::open(*elsewhere, clock());
  ASSERT_TRUE(other->set_blocked("n", true));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (ask(text) != kWrong && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(ask(text), kWrong);
  ASSERT_TRUE(other->remove("n"));
  ASSERT_TRUE(ring->reload());
  EXPECT_TRUE(ring->used()) << "who deletes the last key does not open the server";
}

TEST_P(Keys, AreFoundByWhatPeopleHave) {
  const auto text = create({.name = "one"});
  create({.name = "twin"});
  create({.name = "twin"});
  const auto record = *store->find("one");
  for (const std::string& which : {record.id, record.prefix, text}) EXPECT_EQ(store->find(which)->id, record.id);
  EXPECT_THAT(store->find("twin").error().message, HasSubstr("2 keys are called 'twin'"));
  EXPECT_THAT(store->find("none").error().message, HasSubstr("ashlar key list"));
  EXPECT_FALSE(store->find(""));
  EXPECT_FALSE(store->find("' OR 1=1 --"));
  EXPECT_EQ(store->list()->size(), 3u);
  EXPECT_EQ(store->list()->front().id, record.id);
}

TEST_P(Keys, WishesAreChecked) {
  const auto why = [&](KeyRecord record) {
    const auto made = store->create(std::move(record));
    return made ? "made" : made.error().message;
  };
  for (const char* name : {"a\nb", "\x1b[2J", "\xff", "a\u202eb", "a\u2028b"}) {
    EXPECT_NE(why({.name = name}), "made") << name;
    EXPECT_NE(why({.tags = {{name, "x"}}}), "made");
    EXPECT_NE(why({.tags = {{"x", name}}}), "made");
    EXPECT_NE(why({.tenant = name}), "made");
    EXPECT_NE(why({.models = {name}}), "made");
  }
  EXPECT_THAT(why({.tenant = "key_x"}), HasSubstr("may not begin with"));
  EXPECT_THAT(why({.roles = Roles()}), HasSubstr("needs a role"));
  EXPECT_THAT(why({.networks = {"10.0.0.1/8"}}), HasSubstr("bits beyond"));
  EXPECT_NE(why({.networks = {"nonsense"}}), "made");
  EXPECT_THAT(why({.expires_at = now - 1}), HasSubstr("expired"));
  EXPECT_THAT(why({.metadata = "[]"}), HasSubstr("no JSON object"));
  EXPECT_NE(why({.output_cap = -1}), "made");
  EXPECT_EQ(why({.name = "安'; DROP TABLE api_keys --"}), "made");
}

TEST_P(Keys, ADatabaseThatIsGoneLeavesTheKeysThatWereRead) {
  const auto text = create({.name = "n"});
  ASSERT_TRUE(database->transact({{.sql = "DROP TABLE api_keys_generation"}}));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (ring->trouble().empty() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_THAT(ring->trouble(), HasSubstr("may be out of date"));
  EXPECT_EQ(ask(text), store->find("n")->id);
}

// What the right key costs is the same beside a thousand others, and after ten thousand wrong ones.
TEST_P(Keys, WrongOnesDoNotSlowTheRightOnes) {
  const auto text = create();
  const auto cost = [&] {
    auto best = std::chrono::steady_clock::duration::max();
    for (int turn = 0; turn < 20; ++turn) {
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < 1000; ++i) EXPECT_TRUE(ring->find(text, std::nullopt));
      best = std::min(best, std::chrono::steady_clock::now() - begin);
    }
    return std::chrono::duration<double, std::micro>(best).count() / 1000;
  };
  const double alone = cost();
  std::vector<std::string> wrong;
  for (int i = 0; i < 10'000; ++i) wrong.push_back(make_api_key().text);
  for (const auto& each : wrong) EXPECT_FALSE(ring->find(each, std::nullopt));
  const double after = cost();
  std::vector<store::Statement> more;
  for (int i = 0; i < 1000; ++i)
    more.push_back(
        {.sql = "INSERT INTO api_keys (id, name, prefix, user_name, team, tenant, roles, models, networks, tags, "
                "metadata, output_cap, "
                "created_at, expires_at, blocked, hash, previous_until) SELECT ?, name, prefix, user_name, team, "
                "tenant, roles, models, "
                "networks, tags, metadata, output_cap, created_at, expires_at, blocked, ?, 0 FROM api_keys WHERE "
                "serial = 1",
         .args = {"key_" + std::to_string(i),
                  store::Blob{std::string(
                      reinterpret_cast<const char*>(hash_key(wrong[static_cast<std::size_t>(i)]).data()), 32)}}});
  ASSERT_TRUE(database->transact(std::move(more)));
  ASSERT_TRUE(ring->reload());
  EXPECT_TRUE(ring->find(wrong.front(), std::nullopt));
  const double among = cost();
  RecordProperty("microseconds_alone", std::to_string(alone));
  RecordProperty("microseconds_among_1000", std::to_string(among));
  std::printf("one key: %.2f us; after 10000 wrong ones: %.2f us; among 1000: %.2f us\n", alone, after, among);
  EXPECT_LT(after, 3 * alone + 1);
  EXPECT_LT(among, 3 * alone + 1);
}

}  // namespace
}  // namespace ashlar::gateway
