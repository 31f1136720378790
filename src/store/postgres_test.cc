// What only a server can do: go away, hang, come back.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>

#include "store/databases_for_test.h"

namespace ashlar::store {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

class PostgresServer : public testing::Test {
 protected:
  std::unique_ptr<Database> open(DatabaseOptions options = {}) {
    options.longest_backoff = milliseconds(100);
    auto opened = open_database(place_.where(), options);
    EXPECT_TRUE(opened) << opened.error().message;
    return *std::move(opened);
  }
  static void make(Database& database, const char* table) {
    const auto made = database.transact({{.sql = table}});
    ASSERT_TRUE(made) << made.error().message;
  }
  // Whatever pauses lie between its tries, it comes back by itself.
  static bool comes_back(Database& database) {
    const auto until = Clock::now() + std::chrono::seconds(30);
    while (Clock::now() < until)
      if (database.transact({{.sql = "SELECT 1"}}) && database.query("SELECT 1")) return true;
    return false;
  }

  PlaceForTest place_{Dialect::postgres};
  PostgresForTest& server_ = PostgresForTest::server();
};

TEST_F(PostgresServer, ThatIsDownIsToldAtOnceAndComesBack) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY)");
  ASSERT_TRUE(database->query("SELECT 1"));
  server_.signal(SIGINT);
  const auto began = Clock::now();
  for (int i = 0; i < 300; ++i) {
    const auto refused = database->transact({{.sql = "INSERT INTO t VALUES (1)"}});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unavailable) << refused.error().message;
    EXPECT_EQ(database->query("SELECT 1").error().code, Code::unavailable);
  }
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(60));
  const auto told = database->query("SELECT 1").error().message;
  EXPECT_NE(told.find("postgresql://"), std::string::npos) << told;
  server_.start();
  EXPECT_TRUE(comes_back(*database));
  EXPECT_EQ(as_int(database->query("SELECT count(*) FROM t")->rows.at(0).at(0)), 0);
}

TEST_F(PostgresServer, ThatIsKilledKeepsWhatWasReportedAndNoHalf) {
  const auto database = open({.max_waiting = 3000});
  make(*database, "CREATE TABLE t (id BIGINT, half BIGINT, PRIMARY KEY (id, half))");
  std::mutex mutex;
  std::set<std::int64_t> reported;
  std::atomic<std::size_t> count{0};
  for (int round = 0; round < 2; ++round) {
    std::atomic<bool> over{false};
    std::jthread writer([&, from = round * 10'000'000LL] {
      for (std::int64_t id = from; !over; ++id)
        (void)database->write_later({{.sql = "INSERT INTO t VALUES (?, 1)", .args = {id}},
                                     {.sql = "INSERT INTO t VALUES (?, 2)", .args = {id}}},
                                    [&, id](const Database::Written& done) {
                                      if (!done) return;
                                      const std::lock_guard lock(mutex);
                                      reported.insert(id);
                                      count = reported.size();
                                    });
    });
    for (const std::size_t before = count; count < before + 2000;) std::this_thread::yield();
    server_.signal(SIGKILL);
    over = true;
    writer.join();
    server_.start();
    ASSERT_TRUE(comes_back(*database));
  }
  const auto rows = database->query("SELECT id, count(*) FROM t GROUP BY id");
  ASSERT_TRUE(rows) << rows.error().message;
  std::set<std::int64_t> there;
  for (const Values& row : rows->rows) {
    EXPECT_EQ(as_int(row[1]), 2);
    there.insert(as_int(row[0]));
  }
  const std::lock_guard lock(mutex);
  for (const std::int64_t id : reported) EXPECT_TRUE(there.contains(id)) << id;
}

TEST_F(PostgresServer, ThatHangsIsGivenUpInTime) {
  const auto database = open({.statement_timeout = milliseconds(300), .connect_timeout = milliseconds(2000)});
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY)");
  ASSERT_TRUE(database->query("SELECT 1"));
  server_.signal(SIGSTOP);
  const auto began = Clock::now();
  EXPECT_EQ(database->query("SELECT 1").error().code, Code::deadline);
  const auto lost = database->transact({{.sql = "INSERT INTO t VALUES (1)"}});
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(30));
  server_.signal(SIGCONT);
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Code::unavailable);
  EXPECT_NE(lost.error().message.find("may be there or not"), std::string::npos) << lost.error().message;
  EXPECT_TRUE(comes_back(*database));
}

TEST_F(PostgresServer, ThatDropsTheConnectionLeavesTheOutcomeOpen) {
  const auto database = open(), other = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY)");
  std::jthread killer([&] {
    while (
        as_int(other
                   ->query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE ? AND pid "
                           "<> pg_backend_pid()",
                           {"%pg_sleep(20)%"})
                   ->rows.at(0)
                   .at(0)) == 0) {
    }
  });
  const auto lost = database->transact({{.sql = "INSERT INTO t VALUES (1)"}, {.sql = "SELECT pg_sleep(20)"}});
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Code::unavailable);
  EXPECT_NE(lost.error().message.find("may be there or not"), std::string::npos) << lost.error().message;
  EXPECT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (1)"}}));
}

TEST_F(PostgresServer, ADeadlockIsTriedAgain) {
  const auto first = open(), second = open();
  make(*first, "CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
  ASSERT_TRUE(first->transact({{.sql = "INSERT INTO t VALUES (1, 0), (2, 0)"}}));
  const Statement one{.sql = "UPDATE t SET v = v + 1 WHERE id = 1"}, two{.sql = "UPDATE t SET v = v + 1 WHERE id = 2"};
  const Statement hold{.sql = "SELECT pg_sleep(0.005)"};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 20; ++i) {
          const auto done = t == 0 ? first->transact({one, hold, two}) : second->transact({two, hold, one});
          EXPECT_TRUE(done) << done.error().message;
        }
      });
  }
  EXPECT_EQ(as_int(first->query("SELECT sum(v) FROM t")->rows.at(0).at(0)), 80);
}

TEST(PostgresAddress, NeverShowsItsPassword) {
  const auto wrong = open_database("postgres://ann:secret@[::1/db");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Code::invalid);
  EXPECT_EQ(wrong.error().message.find("secret"), std::string::npos);
  const auto nobody = open_database("postgres://ann:secret@127.0.0.1:1/db");
  ASSERT_TRUE(nobody);
  EXPECT_EQ((*nobody)->name(), "postgresql://127.0.0.1:1/db");
  const auto refused = (*nobody)->query("SELECT 1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::unavailable);
  EXPECT_EQ(refused.error().message.find("secret"), std::string::npos);
  EXPECT_EQ(open_database("mysql://ann:secret@host/db").error().code, Code::invalid);
}

}  // namespace
}  // namespace ashlar::store
