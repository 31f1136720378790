#include "store/backup.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/descriptor.h"
#include "store/files.h"
#include "store/postgres_database.h"
#include "store/sqlite.h"
#include "store/sqlite_database.h"

namespace ashlar::store {
namespace {

namespace fs = std::filesystem;

Status check_is_file(const std::string& path) {
  std::error_code failed;
  if (fs::is_regular_file(path, failed)) return {};
  return Error{Code::not_found, fmt::format("{}: there is no such file", path)};
}

Result<std::vector<SchemaVersion>> versions_in(Sqlite& database, const std::string& path) {
  const auto rows = database.read({.sql = "SELECT room, version FROM ashlar_schema ORDER BY room"});
  if (!rows) {
    if (rows.error().code != Code::internal) return rows.error();
    return Error{Code::corrupt, fmt::format("{}: a database, but not one of Ashlar's", path)};
  }
  std::vector<SchemaVersion> all;
  for (const Values& row : rows->rows) all.push_back({.room = as_text(row.at(0)), .version = as_int(row.at(1))});
  return all;
}

// Moves what is there out of the way, such that at each moment either the old file or
// the new one has the name. The old WAL goes first: SQLite would take it for the new file's.
Status change_places(const std::string& path, const std::string& next, const std::string& kept) {
  std::error_code failed;
  if (!kept.empty()) {
    for (const char* const tail : {"-wal", "-shm"})
      if (fs::exists(path + tail, failed)) fs::rename(path + tail, kept + tail, failed);
    if (!failed) fs::create_hard_link(path, kept, failed);
  }
  if (!failed) fs::rename(next, path, failed);
  if (failed) return Error{Code::io, fmt::format("{}: {}", path, failed.message())};
  sync_folder_of(path);
  return {};
}

}  // namespace

Result<BackupDone> backup_state(const std::string& where, const std::string& file) {
  if (!is_postgres(where)) TRY(check_is_file(where));
  auto database = TRY(open_database(where));
  TRY(database->backup(file));
  std::error_code failed;
  return BackupDone{.file = file,
                    .bytes = static_cast<std::int64_t>(fs::file_size(file, failed)),
                    .versions = TRY(schema_versions(*database))};
}

Result<RestoreDone> restore_state(const std::string& where, const std::string& file) {
  if (is_postgres(where))
    return Error{
        Code::unsupported,
        "a PostgreSQL database is restored by its own tools: pg_restore --clean --if-exists --dbname=DATABASE FILE"};
  TRY(check_is_file(file));
  const auto source = TRY(Sqlite::open_as_it_is(file, {}));
  TRY(source->check_integrity());
  RestoreDone done{.versions = TRY(versions_in(*source, file))};
  if (const auto folder = fs::path(where).parent_path().string(); !folder.empty()) TRY(make_folders(folder));
  const auto lock = FolderLock::take(lock_of(where), FolderLock::Kind::exclusive);
  if (!lock) {
    if (lock.error().code != Code::unavailable) return lock.error();
    return Error{Code::unavailable, fmt::format("{}: a program has it open; stop the server, then restore", where)};
  }
  const std::string stamp = stamp_of_now();
  const std::string next = fmt::format("{}.restored-{}", where, stamp);
  TRY(source->copy_to(next, {}));  // checks the copy too
  std::error_code failed;
  if (fs::exists(where, failed)) {
    done.kept = fmt::format("{}.before-restore-{}", where, stamp);
    // What stands in its WAL goes into the file, if it can be read at all.
    if (const auto old = Sqlite::open_as_it_is(where, {})) (void)(*old)->run("PRAGMA wal_checkpoint(TRUNCATE)");
  }
  if (const auto changed = change_places(where, next, done.kept); !changed) {
    fs::remove(next, failed);
    return changed.error();
  }
  return done;
}

}  // namespace ashlar::store
