#include "store/backup.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "store/databases_for_test.h"
#include "store/files.h"

namespace ashlar::store {
namespace {

namespace fs = std::filesystem;

class Backup : public testing::Test {
 protected:
  void SetUp() override {
    const Schema schema{.room = "test", .steps = {{"CREATE TABLE t (id BIGINT, half BIGINT, PRIMARY KEY (id, half))"}}};
    database_ = *open_database(state_);
    ASSERT_TRUE(migrate(*database_, {&schema, 1}));
    write(1);
  }
  void write(std::int64_t id) {
    ASSERT_TRUE(database_->transact(
        {{.sql = "INSERT INTO t VALUES (?, 1)", .args = {id}}, {.sql = "INSERT INTO t VALUES (?, 2)", .args = {id}}}));
  }
  static std::int64_t count(const std::string& file) {
    const auto database = open_database(file);
    return database ? as_int((*database)->query("SELECT count(*) FROM t")->rows.at(0).at(0)) : -1;
  }

  FolderForTest folder_;
  const std::string state_ = folder_.path() + "/state.db", copy_ = folder_.path() + "/copies/one.db";
  std::unique_ptr<Database> database_;
};

TEST_F(Backup, IsOfOneMomentWhileAServerWrites) {
  std::atomic<bool> over{false};
  std::jthread writer([&] {
    for (std::int64_t id = 100; !over; ++id) write(id);
  });
  for (int i = 0; i < 5; ++i) {
    const std::string file = copy_ + std::to_string(i);
    const auto done = backup_state(state_, file);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(done->bytes, static_cast<std::int64_t>(fs::file_size(file)));
    EXPECT_EQ(done->versions.at(0).room, "test");
    EXPECT_FALSE(fs::exists(file + "-wal"));
    struct stat info{};
    ASSERT_EQ(::stat(file.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    const auto copy = open_database(file);
    ASSERT_TRUE(copy);
    const auto halves = (*copy)->query("SELECT id FROM t GROUP BY id HAVING count(*) <> 2");
    ASSERT_TRUE(halves);
    EXPECT_TRUE(halves->rows.empty());
  }
  over = true;
  EXPECT_EQ(backup_state(state_, copy_ + "0").error().code, Code::invalid) << "overwrites nothing";
  EXPECT_EQ(backup_state(folder_.path() + "/no.db", copy_).error().code, Code::not_found);
}

TEST_F(Backup, ComesBackAndTheOldIsKept) {
  ASSERT_TRUE(backup_state(state_, copy_));
  write(2);
  const auto open = restore_state(state_, copy_);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, Code::unavailable) << open.error().message;
  database_.reset();
  const auto done = restore_state(state_, copy_);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(count(state_), 2);
  EXPECT_EQ(count(done->kept), 4);
  EXPECT_EQ(count(copy_), 2);
}

TEST_F(Backup, ThatIsDamagedReplacesNothing) {
  ASSERT_TRUE(backup_state(state_, copy_));
  database_.reset();
  std::string bytes = read_small_file(copy_, 1 << 22).value_or("");
  const auto refused = [&](const std::string& text) {
    const std::string file = folder_.path() + "/damaged.db";
    std::ofstream(file, std::ios::binary | std::ios::trunc) << text;
    const auto done = restore_state(state_, file);
    EXPECT_FALSE(done);
    EXPECT_EQ(count(state_), 2);
    return done ? Code::internal : done.error().code;
  };
  EXPECT_EQ(refused(std::string(10'000, 'x')), Code::corrupt);
  EXPECT_EQ(refused(bytes.substr(0, bytes.size() / 2)), Code::corrupt);
  EXPECT_EQ(refused(""), Code::corrupt);
  std::string scratched = bytes;
  std::fill(scratched.begin() + 4096, scratched.end(), '\x7f');
  EXPECT_EQ(refused(scratched), Code::corrupt);
  EXPECT_EQ(restore_state(state_, folder_.path() + "/none").error().code, Code::not_found);
  EXPECT_EQ(restore_state("postgres://h/d", copy_).error().code, Code::unsupported);
}

TEST_F(Backup, TakesThePlaceOfADamagedDatabase) {
  ASSERT_TRUE(backup_state(state_, copy_));
  database_.reset();
  for (const char* const tail : {"", "-wal"})
    std::ofstream(state_ + tail, std::ios::binary | std::ios::trunc) << std::string(9000, 'g');
  ASSERT_FALSE(open_database(state_));
  const auto done = restore_state(state_, copy_);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(count(state_), 2);
  EXPECT_EQ(read_small_file(done->kept, 1 << 20).value_or("").substr(0, 3), "ggg");
  EXPECT_FALSE(fs::exists(state_ + ".restored"));
}

}  // namespace
}  // namespace ashlar::store
