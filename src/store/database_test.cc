// What both twins of Database do alike.
#include "store/database.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <future>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "store/databases_for_test.h"

namespace ashlar::store {
namespace {

class DatabaseTwins : public testing::TestWithParam<Dialect> {
 protected:
  // A place of its own for each test; open() again is a second program at the same place.
  std::unique_ptr<Database> open(DatabaseOptions options = {}) {
    auto opened = open_database(place_.where(), options);
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? *std::move(opened) : nullptr;
  }

  static void make(Database& database, const char* table) {
    const auto made = database.transact({{.sql = table}});
    ASSERT_TRUE(made) << made.error().message;
  }

  static std::int64_t number(Database& database, const std::string& sql) {
    const auto rows = database.query(sql);
    EXPECT_TRUE(rows) << rows.error().message;
    return rows && rows->rows.size() == 1 ? as_int(rows->rows[0][0]) : -1;
  }

  PlaceForTest place_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Both, DatabaseTwins, testing::Values(Dialect::sqlite, Dialect::postgres),
                         [](const auto& each) { return each.param == Dialect::sqlite ? "Sqlite" : "Postgres"; });

TEST_P(DatabaseTwins, ValuesComeBackAsTheyWent) {
  const auto database = open();
  make(*database, GetParam() == Dialect::sqlite
                      ? "CREATE TABLE t (id BIGINT, i BIGINT, d DOUBLE PRECISION, s TEXT, b BLOB)"
                      : "CREATE TABLE t (id BIGINT, i BIGINT, d DOUBLE PRECISION, s TEXT, b BYTEA)");
  using Limits = std::numeric_limits<std::int64_t>;
  const std::vector<Values> rows = {
      {std::int64_t{0}, Limits::min(), -0.1, std::string("'; DROP TABLE t; -- \\ \" $1 ?"),
       Blob{std::string("\0\xff\\x", 4)}},
      {std::int64_t{1}, Limits::max(), 1e308, std::string("水 🪨\n\t"), Blob{""}},
      {std::int64_t{2}, std::monostate{}, std::monostate{}, std::monostate{}, std::monostate{}},
      {std::int64_t{3}, std::int64_t{0}, 5e-324, std::string(), Blob{std::string(100'000, '\xee')}},
      {std::int64_t{4}, std::int64_t{-1}, std::numeric_limits<double>::infinity(), std::string(200'000, 'x'),
       Blob{"a"}}};
  for (const Values& row : rows) {
    const auto written = database->transact({{.sql = "INSERT INTO t VALUES (?, ?, ?, ?, ?)", .args = row}});
    ASSERT_TRUE(written) << written.error().message;
    EXPECT_EQ(written->at(0).changed, 1);
  }
  const auto read = database->query("SELECT id, i, d, s, b FROM t ORDER BY id");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->columns, (std::vector<std::string>{"id", "i", "d", "s", "b"}));
  EXPECT_EQ(read->rows, rows);
  const auto sums =
      database->query("SELECT count(*), sum(i) FROM t WHERE id >= ? AND s <> '?' -- ?\n", {std::int64_t{3}});
  ASSERT_TRUE(sums) << sums.error().message;
  EXPECT_EQ(sums->rows, (std::vector<Values>{{std::int64_t{2}, std::int64_t{-1}}}));
}

TEST_P(DatabaseTwins, AListIsWrittenWholeOrNotAtAll) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT NOT NULL)");
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (1, 'a')"}, {.sql = "INSERT INTO t VALUES (2, 'b')"}}));
  const auto twice =
      database->transact({{.sql = "INSERT INTO t VALUES (3, 'c')"}, {.sql = "INSERT INTO t VALUES (1, 'again')"}});
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, Code::invalid) << twice.error().message;
  const auto null = database->transact({{.sql = "INSERT INTO t VALUES (?, ?)", .args = {std::int64_t{4}, {}}}});
  ASSERT_FALSE(null);
  EXPECT_EQ(null.error().code, Code::invalid) << null.error().message;
  EXPECT_EQ(number(*database, "SELECT count(*) FROM t"), 2);
}

TEST_P(DatabaseTwins, AConditionThatDoesNotHoldUndoesItsList) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (1, 10)"}}));
  const auto refused = database->transact(
      {{.sql = "INSERT INTO t VALUES (2, 20)"},
       {.sql = "UPDATE t SET v = v + 1 WHERE id = 1 AND v < 10", .if_unchanged = Error{Code::exhausted, "used up"}},
       {.sql = "INSERT INTO t VALUES (3, 30)"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::exhausted);
  EXPECT_EQ(refused.error().message, "used up");
  const auto granted = database->transact({{.sql = "INSERT INTO t VALUES (2, 20)"},
                                           {.sql = "UPDATE t SET v = v + 1 WHERE id = 1 AND v < 11 -- ?\n ; ",
                                            .if_unchanged = Error{Code::exhausted, "used up"}}});
  ASSERT_TRUE(granted) << granted.error().message;
  EXPECT_EQ(granted->at(1).changed, 1);
  EXPECT_EQ(number(*database, "SELECT sum(v) FROM t"), 31);
}

TEST_P(DatabaseTwins, WritesGiveBackRows) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
  const auto written = database->transact({{.sql = "INSERT INTO t VALUES (1, 5), (2, 6)"},
                                           {.sql = "SELECT count(*) FROM t"},
                                           {.sql = "UPDATE t SET v = v * 2 WHERE id = ? RETURNING v, id",
                                            .args = {std::int64_t{2}},
                                            .if_unchanged = Error{Code::not_found, "gone"}}});
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(written->at(0).changed, 2);
  EXPECT_EQ(written->at(1).rows, (std::vector<Values>{{std::int64_t{2}}}));
  EXPECT_EQ(written->at(1).changed, 0);
  EXPECT_EQ(written->at(2).rows, (std::vector<Values>{{std::int64_t{12}, std::int64_t{2}}}));
  EXPECT_EQ(written->at(2).changed, 1);
}

TEST_P(DatabaseTwins, ABudgetIsExactUnderARace) {
  const auto first = open(), second = open();
  make(*first, "CREATE TABLE budgets (id TEXT PRIMARY KEY, used BIGINT, most BIGINT)");
  make(*first, "CREATE TABLE spent (id BIGINT PRIMARY KEY)");
  ASSERT_TRUE(first->transact({{.sql = "INSERT INTO budgets VALUES ('k', 0, 100)"}}));
  constexpr int kThreads = 20, kEach = 50;
  std::atomic<int> admitted{0}, refused{0}, other{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Database& mine = t % 2 == 0 ? *first : *second;
      for (int i = 0; i < kEach; ++i) {
        const auto asked =
            mine.transact({{.sql = "UPDATE budgets SET used = used + ? WHERE id = 'k' AND used + ? <= most",
                            .args = {std::int64_t{1}, std::int64_t{1}},
                            .if_unchanged = Error{Code::exhausted, "used up"}},
                           {.sql = "INSERT INTO spent VALUES (?)", .args = {std::int64_t{t * kEach + i}}}});
        ++(asked ? admitted : asked.error().code == Code::exhausted ? refused : other);
      }
    });
  threads.clear();
  EXPECT_EQ(admitted, 100);
  EXPECT_EQ(refused, kThreads * kEach - 100);
  EXPECT_EQ(other, 0);
  EXPECT_EQ(number(*second, "SELECT used FROM budgets"), 100);
  EXPECT_EQ(number(*first, "SELECT count(*) FROM spent"), 100);
}

TEST_P(DatabaseTwins, AListThatIsRefusedTakesNoOtherWithIt) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY)");
  std::atomic<int> written{0}, refused{0};
  std::atomic<int> left{600};
  std::promise<void> over;
  for (int i = 0; i < 600; ++i) {
    // Each third says a number that is there already.
    const std::int64_t id = i % 3 == 2 ? i - 1 : i;
    const auto taken = database->write_later(
        {{.sql = "INSERT INTO t VALUES (?)", .args = {id}}, {.sql = "INSERT INTO t VALUES (?)", .args = {id + 1000}}},
        [&](const Database::Written& done) {
          ++(done ? written : refused);
          if (--left == 0) over.set_value();
        });
    ASSERT_TRUE(taken) << taken.error().message;
  }
  over.get_future().wait();
  EXPECT_EQ(written, 400);
  EXPECT_EQ(refused, 200);
  EXPECT_EQ(number(*database, "SELECT count(*) FROM t"), 800);
}

// Lists of one statement stand in no savepoint of their own.
TEST_P(DatabaseTwins, AStatementThatIsRefusedHalfwayLeavesNothing) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY)");
  make(*database, "CREATE TABLE source (id BIGINT)");
  for (const int id : {1, 2, 7, 3})
    ASSERT_TRUE(database->transact({{.sql = fmt::format("INSERT INTO source VALUES ({})", id)}}));
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (7)"}}));
  std::atomic<int> written{0}, refused{0}, left{90};
  std::promise<void> over;
  const auto done = [&](const Database::Written& outcome) {
    ++(outcome ? written : refused);
    if (--left == 0) over.set_value();
  };
  for (std::int64_t i = 0; i < 30; ++i) {  // in batches with others
    ASSERT_TRUE(database->write_later({{.sql = "INSERT INTO t VALUES (?)", .args = {100 + i}}}, done));
    ASSERT_TRUE(database->write_later({{.sql = "INSERT INTO t SELECT id FROM source"}}, done));
    ASSERT_TRUE(database->write_later({{.sql = "INSERT INTO t VALUES (?)", .args = {200 + i}}}, done));
  }
  over.get_future().wait();
  EXPECT_EQ(written, 60);
  EXPECT_EQ(refused, 30);
  EXPECT_EQ(number(*database, "SELECT count(*) FROM t"), 61);
}

TEST_P(DatabaseTwins, WhatIsDoneIsSeenAndInOrder) {
  const auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (1, 0)"}}));
  for (std::int64_t i = 1; i <= 300; ++i)
    ASSERT_TRUE(
        database->write_later({{.sql = "UPDATE t SET v = ? WHERE id = 1 AND v = ?", .args = {i, i - 1}}}, nullptr));
  ASSERT_TRUE(database->transact({{.sql = "UPDATE t SET v = v + 1000 WHERE id = 1 AND v = 300"}}));
  EXPECT_EQ(number(*database, "SELECT v FROM t"), 1300);
}

TEST_P(DatabaseTwins, WhatWaitsIsWrittenBeforeItCloses) {
  auto database = open();
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY)");
  std::atomic<int> told{0};
  for (std::int64_t i = 0; i < 2000; ++i)
    ASSERT_TRUE(database->write_later({{.sql = "INSERT INTO t VALUES (?)", .args = {i}}},
                                      [&](const Database::Written& done) { told += done ? 1 : 0; }));
  database.reset();
  EXPECT_EQ(told, 2000);
  EXPECT_EQ(number(*open(), "SELECT count(*) FROM t"), 2000);
}

TEST_P(DatabaseTwins, TooMuchThatWaitsIsRefusedAndLaterTaken) {
  const auto database = open({.max_waiting = 10, .max_waiting_bytes = 100'000});
  make(*database, "CREATE TABLE t (s TEXT)");
  std::promise<void> held, go;
  ASSERT_TRUE(database->write_later({{.sql = "INSERT INTO t VALUES ('first')"}}, [&](const Database::Written&) {
    held.set_value();
    go.get_future().wait();
  }));
  held.get_future().wait();
  int taken = 0;
  const auto push = [&](std::size_t size) {
    return database->write_later({{.sql = "INSERT INTO t VALUES (?)", .args = {std::string(size, 'x')}}}, nullptr);
  };
  EXPECT_EQ(push(200'000).error().code, Code::too_large);
  ASSERT_TRUE(push(60'000));
  EXPECT_EQ(push(60'000).error().code, Code::unavailable) << "too heavy together";
  Status last;
  while ((last = push(1)) && taken < 100) ++taken;
  EXPECT_EQ(taken, 9);
  EXPECT_EQ(last.error().code, Code::unavailable) << last.error().message;
  go.set_value();
  while (!database->transact({{.sql = "INSERT INTO t VALUES ('last')"}})) std::this_thread::yield();
  EXPECT_EQ(number(*database, "SELECT count(*) FROM t"), 12);
}

TEST_P(DatabaseTwins, BadCallsAreToldAndHarmNobody) {
  const auto database = open({.statement_timeout = std::chrono::milliseconds(300), .max_rows = 10});
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT)");
  const auto code = [](const auto& result) { return result ? Code::internal : result.error().code; };
  EXPECT_EQ(code(database->query("INSERT INTO t VALUES (1, '')")), Code::invalid);
  EXPECT_EQ(code(database->query("SELECT ?", {std::string("a\0b", 3)})), Code::invalid);
  EXPECT_EQ(code(database->query("SELECT ?", {std::string("\xc3\x28")})), Code::invalid);
  EXPECT_EQ(code(database->transact({{.sql = "INSERT INTO t VALUES (1, ?)", .args = {std::string("\xff")}}})),
            Code::invalid);
  EXPECT_EQ(code(database->query("SELECT ?", {std::nan("")})), Code::invalid);
  EXPECT_EQ(database->query("SELEKT 1").error().code, Code::internal);
  EXPECT_EQ(database->query("SELECT * FROM nowhere").error().code, Code::internal);
  EXPECT_EQ(database->query("SELECT id FROM t WHERE id = ?").error().code, Code::internal);
  EXPECT_EQ(database->query("SELECT 1; SELECT 2").error().code, Code::internal);
  EXPECT_EQ(database->transact({{.sql = "INSERT INTO t VALUES (?, ?)", .args = {std::int64_t{1}}}}).error().code,
            Code::internal);
  const char* const many =
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT i FROM n";
  EXPECT_EQ(code(database->query(many)), Code::too_large);
  const char* const endless =
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i % 7 + 1 FROM n) SELECT count(*) FROM n";
  EXPECT_EQ(code(database->query(endless)), Code::deadline);
  const auto late = database->transact({{.sql = "INSERT INTO t VALUES (7, 'x')"}, {.sql = endless}});
  EXPECT_EQ(code(late), Code::deadline);
  EXPECT_EQ(number(*database, "SELECT count(*) FROM t"), 0);
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (1, 'fine')"}}));
  EXPECT_EQ(number(*database, "SELECT count(*) FROM t"), 1);
}

TEST_P(DatabaseTwins, ReadersRunBesideWriters) {
  const auto database = open({.readers = 3});
  make(*database, "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT)");
  ASSERT_TRUE(database->transact({{.sql = "INSERT INTO t VALUES (1, 0, 0)"}}));
  std::atomic<bool> over{false};
  std::atomic<int> torn{0}, failed{0}, read{0};
  {
    std::vector<std::jthread> readers;
    for (int r = 0; r < 6; ++r)
      readers.emplace_back([&] {
        while (!over) {
          const auto rows = database->query("SELECT a, b FROM t");
          if (!rows)
            ++failed;
          else if (rows->rows[0][0] != rows->rows[0][1])
            ++torn;
          ++read;
        }
      });
    for (int i = 0; i < 100 || read < 100; ++i)
      ASSERT_TRUE(database->transact({{.sql = "UPDATE t SET a = a + 1"}, {.sql = "UPDATE t SET b = b + 1"}}));
    over = true;
  }
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(failed, 0);
}

// The writer tells through a pipe what was reported durable, and dies at a moment of our choice.
void write_until_killed(const std::string& where, int pipe, std::int64_t from) {
  auto database = open_database(where);
  if (!database) ::_exit(1);
  for (std::int64_t id = from;; ++id) {
    const auto tell = [pipe, id](const Database::Written& done) {
      if (done) (void)!::write(pipe, &id, sizeof id);
    };
    const Statement half{.sql = "INSERT INTO t VALUES (?, 1)", .args = {id}};
    const Statement other{.sql = "INSERT INTO t VALUES (?, 2)", .args = {id}};
    while (!(*database)->write_later({half, other}, tell)) std::this_thread::yield();
  }
}

TEST_P(DatabaseTwins, AWriterKilledAtAnyMomentLosesNothingReportedAndLeavesNoHalf) {
  make(*open(), "CREATE TABLE t (id BIGINT, half BIGINT, PRIMARY KEY (id, half))");
  std::mt19937 random(7);
  std::set<std::int64_t> reported;
  const char* const wanted = std::getenv("ASHLAR_KILL_ROUNDS");  // more than the suite has time for
  const int rounds = wanted != nullptr ? std::atoi(wanted) : 20;
  for (int round = 0; round < rounds; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(ends[0]);
      write_until_killed(place_.where(), ends[1], round * 10'000'000LL);
    }
    ::close(ends[1]);
    std::int64_t id = 0;
    const int after = std::uniform_int_distribution<int>(1, 3000)(random);
    for (int i = 0; i < after && ::read(ends[0], &id, sizeof id) == sizeof id; ++i) reported.insert(id);
    ::kill(child, SIGKILL);
    while (::read(ends[0], &id, sizeof id) == sizeof id) reported.insert(id);
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child could not open the database";
  }
  const auto database = open();
  EXPECT_EQ(number(*database, "SELECT count(*) FROM (SELECT id FROM t GROUP BY id HAVING count(*) <> 2) AS halves"), 0);
  std::set<std::int64_t> there;
  for (std::int64_t last = -1;;) {
    const auto rows = database->query("SELECT id FROM t WHERE half = 1 AND id > ? ORDER BY id LIMIT 50000", {last});
    ASSERT_TRUE(rows) << rows.error().message;
    if (rows->rows.empty()) break;
    for (const Values& row : rows->rows) there.insert(last = as_int(row[0]));
  }
  EXPECT_TRUE(std::ranges::includes(there, reported));
  EXPECT_GT(reported.size(), 20u);
}

}  // namespace
}  // namespace ashlar::store
