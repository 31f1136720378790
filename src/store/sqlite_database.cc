#include "store/sqlite_database.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <utility>

#include "store/files.h"
#include "store/pool.h"
#include "store/sqlite.h"
#include "store/write_queue.h"

namespace ashlar::store {
namespace {

class SqliteDatabase final : public Database {
 public:
  SqliteDatabase(std::string path, FolderLock lock, std::unique_ptr<Sqlite> writer, const DatabaseOptions& options)
      : path_(std::move(path)),
        options_(options),
        lock_(std::move(lock)),
        writer_(std::move(writer)),
        readers_(options.readers, [this] { return Sqlite::open(path_, Sqlite::Mode::read, options_); }),
        queue_(options, [this](std::vector<Write>& batch) { write(batch); }) {}

  Result<Rows> query(std::string_view sql, Values args) override {
    TRY(check_values(args));
    const auto reader = TRY(readers_.borrow(options_.statement_timeout));
    return reader->read({.sql = std::string(sql), .args = std::move(args)});
  }

  Written transact(std::vector<Statement> statements, bool unhurried) override {
    return queue_.wait_for(std::move(statements), unhurried);
  }

  Status write_later(std::vector<Statement> statements, Done done) override {
    return queue_.write_later(std::move(statements), std::move(done));
  }

  Status backup(const std::string& file) override {
    const auto reader = TRY(readers_.borrow(options_.statement_timeout));
    return reader->copy_to(file, options_);
  }

  Dialect dialect() const override { return Dialect::sqlite; }
  const std::string& name() const override { return path_; }

 private:
  // One transaction, one wait for the disk.
  void write(std::vector<Write>& batch) {
    Status open = writer_->run("BEGIN IMMEDIATE");
    for (Write& each : batch) {
      if (!open) break;
      each.outcome = write_one(each);
      // A full disk or a broken file ends the whole transaction.
      if (!*each.outcome && !writer_->in_transaction()) open = each.outcome->error();
    }
    if (open) open = writer_->run("COMMIT");
    if (open) return;
    if (writer_->in_transaction()) (void)writer_->run("ROLLBACK");
    for (Write& each : batch)
      if (!each.outcome || *each.outcome) each.outcome = open.error();
  }

  // A savepoint, so that a list that is refused takes no other with it; of a single statement nothing stays anyway.
  Written write_one(const Write& write) {
    writer_->set_timeout(write.unhurried ? std::chrono::milliseconds(0) : options_.statement_timeout);
    if (write.statements.size() == 1) return run_all(write);
    TRY(writer_->run("SAVEPOINT list"));
    auto written = run_all(write);
    if (!written && writer_->in_transaction()) TRY(writer_->run("ROLLBACK TO list"));
    if (writer_->in_transaction()) TRY(writer_->run("RELEASE list"));
    return written;
  }

  Written run_all(const Write& write) {
    std::vector<Rows> all;
    for (const Statement& each : write.statements) all.push_back(TRY(writer_->run(each)));
    return all;
  }

  const std::string path_;
  const DatabaseOptions options_;
  const FolderLock lock_;
  const std::unique_ptr<Sqlite> writer_;  // the queue's thread
  Pool<Sqlite> readers_;
  WriteQueue queue_;
};

}  // namespace

std::string lock_of(const std::string& database_file) { return database_file + ".lock"; }

Result<std::unique_ptr<Database>> open_sqlite(const std::string& path, const DatabaseOptions& options) {
  const auto folder = std::filesystem::path(path).parent_path().string();
  if (!folder.empty()) TRY(make_folders(folder));
  auto lock = FolderLock::take(lock_of(path), FolderLock::Kind::shared);
  if (!lock) {
    if (lock.error().code != Code::unavailable) return std::move(lock).error();
    return Error{Code::unavailable, fmt::format("{}: a backup is being restored; try again when it is done", path)};
  }
  auto writer = TRY(Sqlite::open(path, Sqlite::Mode::write, options));
  return std::make_unique<SqliteDatabase>(path, *std::move(lock), std::move(writer), options);
}

}  // namespace ashlar::store
