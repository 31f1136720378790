// One connection to an SQLite file.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/result.h"
#include "store/database.h"

struct sqlite3;
struct sqlite3_stmt;

namespace ashlar::store {

// One thread at a time.
class Sqlite {
 public:
  enum class Mode { write, read };

  // write: WAL, made for the owner alone if it is not there. io, corrupt, unavailable.
  static Result<std::unique_ptr<Sqlite>> open(const std::string& path, Mode mode, const DatabaseOptions& options);
  // Whatever the file is, untouched: its journal mode, its rights. io.
  static Result<std::unique_ptr<Sqlite>> open_as_it_is(const std::string& path, const DatabaseOptions& options);
  ~Sqlite();
  Sqlite(const Sqlite&) = delete;
  Sqlite& operator=(const Sqlite&) = delete;

  // As Database; if_unchanged is looked at. too_large: more than `most` rows.
  Result<Rows> run(const Statement& statement, std::size_t most = SIZE_MAX);
  // The same, for a statement that only reads, invalid if it does not: at most max_rows.
  Result<Rows> read(const Statement& statement);
  // One that takes and gives nothing.
  Status run(const char* sql);
  bool in_transaction() const;
  // Of each statement from now on; 0: none.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }
  bool is_whole() const { return true; }

  // All of this file as it is now, checked, becomes `file`, which is there whole or not
  // at all. invalid: it is there already.
  Status copy_to(const std::string& file, const DatabaseOptions& options);
  // corrupt, with SQLite's own sentence.
  Status check_integrity();

 private:
  Sqlite(std::string path, sqlite3* handle, const DatabaseOptions& options);
  Status use_wal(std::chrono::milliseconds patience);
  Result<sqlite3_stmt*> prepare(const std::string& sql);
  Status bind(sqlite3_stmt* statement, const Values& args);
  Result<Rows> step(sqlite3_stmt* statement, std::size_t most);
  Status copy_over(const std::string& file, const DatabaseOptions& options);
  Error refused(const char* sql = nullptr) const;
  static int on_progress(void* self);

  const std::string path_;
  sqlite3* const handle_;
  const std::size_t max_rows_;
  std::chrono::milliseconds timeout_;
  std::chrono::steady_clock::time_point give_up_at_ = std::chrono::steady_clock::time_point::max();
  std::unordered_map<std::string, sqlite3_stmt*> prepared_;
};

}  // namespace ashlar::store
