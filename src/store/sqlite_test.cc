// What only a file can do: be full, damaged, somebody else's.
#include "store/sqlite.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "store/databases_for_test.h"

namespace ashlar::store {
namespace {

class SqliteFile : public testing::Test {
 protected:
  std::unique_ptr<Database> open(DatabaseOptions options = {}) {
    auto opened = open_database(place_.where(), options);
    EXPECT_TRUE(opened) << opened.error().message;
    return *std::move(opened);
  }
  void write_file(const std::string& bytes) { std::ofstream(place_.where(), std::ios::binary) << bytes; }

  PlaceForTest place_{Dialect::sqlite};
};

Status insert(Database& database, std::size_t bytes) {
  const auto done = database.transact({{.sql = "INSERT INTO t VALUES (?)", .args = {std::string(bytes, 'x')}}});
  return done ? Status() : Status(done.error());
}

TEST_F(SqliteFile, IsItsOwnersAlone) {
  const mode_t before = ::umask(0);
  const auto database = open();
  ASSERT_TRUE(database->transact({{.sql = "CREATE TABLE t (s TEXT)"}}));
  ::umask(before);
  for (const char* const tail : {"", "-wal", "-shm"}) {
    struct stat info{};
    ASSERT_EQ(::stat((place_.where() + tail).c_str(), &info), 0) << tail;
    EXPECT_EQ(info.st_mode & 0777, 0600u) << tail;
  }
}

TEST_F(SqliteFile, MayBeMadeByManyAtOnce) {
  for (int round = 0; round < 10; ++round) {
    const std::string path = place_.where() + std::to_string(round);
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&path] {
        const auto database = open_database(path);
        ASSERT_TRUE(database) << database.error().message;
        const auto made = (*database)->transact({{.sql = "CREATE TABLE IF NOT EXISTS t (s TEXT)"}});
        EXPECT_TRUE(made) << made.error().message;
        EXPECT_TRUE((*database)->query("SELECT count(*) FROM t"));
      });
  }
}

TEST_F(SqliteFile, OfAnotherKindIsRefusedAndLeftAlone) {
  for (const std::string& bytes : {std::string(50'000, '\xa5'), std::string("SQLite format 3"),
                                   std::string("SQLite format 3\0", 16) + std::string(5000, 'x')}) {
    write_file(bytes);
    const auto opened = open_database(place_.where());
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Code::corrupt) << opened.error().message;
    EXPECT_NE(opened.error().message.find("ashlar restore"), std::string::npos);
    EXPECT_EQ(read_small_file(place_.where(), 1 << 20).value_or(""), bytes);
  }
}

TEST_F(SqliteFile, DamagedInItsMiddleIsAnErrorAndNoCrash) {
  {
    const auto database = open();
    ASSERT_TRUE(database->transact({{.sql = "CREATE TABLE t (s TEXT)"}}));
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(insert(*database, 3000));
  }
  std::string bytes = read_small_file(place_.where(), 1 << 20).value_or("");
  ASSERT_GT(bytes.size(), 100'000u);
  std::fill(bytes.begin() + 8192, bytes.begin() + 60'000, '\xee');
  write_file(bytes);
  const auto database = open();
  EXPECT_EQ(database->query("SELECT sum(length(s)) FROM t").error().code, Code::corrupt);
}

TEST_F(SqliteFile, ThatIsFullIsToldAndGoesOnWhenThereIsRoom) {
  const auto database = open({.max_bytes = 400'000});
  ASSERT_TRUE(database->transact({{.sql = "CREATE TABLE t (s TEXT)"}}));
  Status last;
  int rows = 0;
  while ((last = insert(*database, 20'000)) && rows < 100) ++rows;
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().code, Code::io);
  EXPECT_NE(last.error().message.find("disk is full"), std::string::npos) << last.error().message;
  EXPECT_EQ(as_int(database->query("SELECT count(*) FROM t")->rows.at(0).at(0)), rows);
  ASSERT_TRUE(database->transact({{.sql = "DELETE FROM t"}}));
  EXPECT_TRUE(insert(*database, 20'000));
}

TEST_F(SqliteFile, OnADiskThatRefusesBytesRecoversWithoutAnew) {
  ASSERT_TRUE(open()->transact({{.sql = "CREATE TABLE t (s TEXT)"}}));
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    auto database = open_database(place_.where());
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    const rlim_t before = std::exchange(limit.rlim_cur, 300'000);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    Status last;
    for (int i = 0; i < 100 && (last = insert(**database, 20'000)); ++i) {
    }
    const bool told = !last && last.error().code == Code::io;
    limit.rlim_cur = before;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::_exit(told && insert(**database, 20'000) ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  const auto database = open();
  EXPECT_TRUE(insert(*database, 10));
}

TEST_F(SqliteFile, ThatAnotherProcessWritesIsWaitedForAndThenTold) {
  const auto database = open({.busy_timeout = std::chrono::milliseconds(50)});
  ASSERT_TRUE(database->transact({{.sql = "CREATE TABLE t (s TEXT)"}}));
  auto other = Sqlite::open(place_.where(), Sqlite::Mode::write, {});
  ASSERT_TRUE(other);
  ASSERT_TRUE((*other)->run("BEGIN IMMEDIATE"));
  const auto refused = insert(*database, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::unavailable) << refused.error().message;
  EXPECT_TRUE(database->query("SELECT count(*) FROM t")) << "who reads does not wait for who writes";
  ASSERT_TRUE((*other)->run("COMMIT"));
  EXPECT_TRUE(insert(*database, 1));
}

}  // namespace
}  // namespace ashlar::store
