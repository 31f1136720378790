#include "store/sqlite.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/descriptor.h"
#include "store/files.h"

namespace ashlar::store {
namespace {

constexpr std::size_t kPrepared = 256;      // statements kept ready
constexpr int kStepsBetweenLooks = 10'000;  // of SQLite's machine, between two looks at the clock
constexpr int kLongestValue = 64 << 20;
constexpr int kPageBytes = 4096;

Status make_file(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path().string();
  if (!folder.empty()) TRY(make_folders(folder));
  const Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0) return Error{Code::io, fmt::format("{}: {}", path, std::strerror(errno))};
  sync_folder_of(path);
  return {};
}

Result<sqlite3*> open_handle(const std::string& path, int flags, const DatabaseOptions& options) {
  sqlite3* handle = nullptr;
  const int opened = sqlite3_open_v2(path.c_str(), &handle, flags | SQLITE_OPEN_NOMUTEX, nullptr);
  if (opened != SQLITE_OK) {
    const std::string why = handle != nullptr ? sqlite3_errmsg(handle) : "no memory";
    sqlite3_close(handle);
    return Error{Code::io, fmt::format("{}: {}", path, why)};
  }
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, static_cast<int>(options.busy_timeout.count()));
  sqlite3_limit(handle, SQLITE_LIMIT_LENGTH, kLongestValue);
  // What stands in the file's own schema runs no function with effects.
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  return handle;
}

Value column(sqlite3_stmt* statement, int at) {
  switch (sqlite3_column_type(statement, at)) {
    case SQLITE_INTEGER:
      return sqlite3_column_int64(statement, at);
    case SQLITE_FLOAT:
      return sqlite3_column_double(statement, at);
    case SQLITE_NULL:
      return std::monostate{};
    default:
      break;
  }
  const bool is_text = sqlite3_column_type(statement, at) == SQLITE_TEXT;
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement, at));
  std::string copy(bytes == nullptr ? "" : bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement, at)));
  if (is_text) return copy;
  return Blob{std::move(copy)};
}

}  // namespace

Sqlite::Sqlite(std::string path, sqlite3* handle, const DatabaseOptions& options)
    : path_(std::move(path)), handle_(handle), max_rows_(options.max_rows), timeout_(options.statement_timeout) {
  sqlite3_progress_handler(handle_, kStepsBetweenLooks, &Sqlite::on_progress, this);
}

Result<std::unique_ptr<Sqlite>> Sqlite::open_as_it_is(const std::string& path, const DatabaseOptions& options) {
  sqlite3* const handle = TRY(open_handle(path, SQLITE_OPEN_READWRITE, options));
  return std::unique_ptr<Sqlite>(new Sqlite(path, handle, options));
}

Result<std::unique_ptr<Sqlite>> Sqlite::open(const std::string& path, Mode mode, const DatabaseOptions& options) {
  if (mode == Mode::write) TRY(make_file(path));
  auto made = TRY(open_as_it_is(path, options));
  TRY(made->use_wal(options.busy_timeout));
  // A commit returns when the WAL is on the disk (FULL), not at the next checkpoint
  // (NORMAL): what was reported durable survives a power cut. A batch shares the wait.
  TRY(made->run("PRAGMA synchronous=FULL"));
  TRY(made->run("PRAGMA foreign_keys=ON"));
  TRY(made->run("PRAGMA journal_size_limit=67108864"));
  if (mode == Mode::read) TRY(made->run("PRAGMA query_only=ON"));
  if (options.max_bytes > 0)
    TRY(made->run(Statement{.sql = fmt::format("PRAGMA max_page_count={}", options.max_bytes / kPageBytes)}));
  TRY(made->run("SELECT count(*) FROM sqlite_schema"));
  return made;
}

// SQLite does not wait by itself for a file that another process turns to WAL, recovers
// or closes at this moment.
Status Sqlite::use_wal(std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (true) {
    const Status done = run("PRAGMA journal_mode=WAL");
    if (done || done.error().code != Code::unavailable || std::chrono::steady_clock::now() > until) return done;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Sqlite::~Sqlite() {
  for (const auto& [sql, statement] : prepared_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

int Sqlite::on_progress(void* self) {
  return std::chrono::steady_clock::now() > static_cast<Sqlite*>(self)->give_up_at_ ? 1 : 0;
}

bool Sqlite::in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }

Error Sqlite::refused(const char* sql) const {
  const int code = sqlite3_extended_errcode(handle_);
  const char* const why = sqlite3_errmsg(handle_);
  const int system = sqlite3_system_errno(handle_);
  switch (code & 0xff) {
    case SQLITE_FULL:
      return Error{Code::io, fmt::format("{}: the disk is full", path_)};
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Error{Code::unavailable, fmt::format("{}: another process keeps the database busy; try again", path_)};
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return Error{Code::corrupt,
                   fmt::format("{}: no SQLite database, or a damaged one ({}); `ashlar restore FILE` puts a backup in "
                               "its place",
                               path_, why)};
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
      return Error{Code::invalid, fmt::format("the database refused a row: {}", why)};
    case SQLITE_TOOBIG:
      return Error{Code::too_large, "a value is too large for the database"};
    case SQLITE_INTERRUPT:
      return Error{Code::deadline, fmt::format("{}: a statement took longer than {} ms", path_, timeout_.count())};
    case SQLITE_IOERR:
      if (system == ENOSPC || system == EDQUOT || system == EFBIG)
        return Error{Code::io, fmt::format("{}: the disk is full", path_)};
      return Error{Code::io, fmt::format("{}: {}{}{}", path_, why, system != 0 ? ": " : "",
                                         system != 0 ? std::strerror(system) : "")};
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
    case SQLITE_NOMEM:
      return Error{Code::io, fmt::format("{}: {}", path_, why)};
    default:
      return Error{Code::internal, fmt::format("SQL: {} in: {}", why, sql == nullptr ? "" : sql)};
  }
}

Result<sqlite3_stmt*> Sqlite::prepare(const std::string& sql) {
  if (const auto found = prepared_.find(sql); found != prepared_.end()) return found->second;
  sqlite3_stmt* statement = nullptr;
  const char* tail = nullptr;
  if (sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, &statement,
                         &tail) != SQLITE_OK)
    return refused(sql.c_str());
  if (statement == nullptr) return Error{Code::internal, fmt::format("SQL: nothing to do in: {}", sql)};
  if (std::string_view(tail).find_first_not_of(" \n\t;") != std::string_view::npos) {
    sqlite3_finalize(statement);
    return Error{Code::internal, fmt::format("SQL: more than one statement in: {}", sql)};
  }
  if (prepared_.size() >= kPrepared) {
    for (const auto& [text, old] : prepared_) sqlite3_finalize(old);
    prepared_.clear();
  }
  prepared_.emplace(sql, statement);
  return statement;
}

Status Sqlite::bind(sqlite3_stmt* statement, const Values& args) {
  const int wanted = sqlite3_bind_parameter_count(statement);
  if (static_cast<std::size_t>(wanted) != args.size())
    return Error{Code::internal,
                 fmt::format("SQL: {} arguments for {} places in: {}", args.size(), wanted, sqlite3_sql(statement))};
  struct Binder {
    sqlite3_stmt* statement;
    int at;
    int operator()(std::monostate) const { return sqlite3_bind_null(statement, at); }
    int operator()(std::int64_t v) const { return sqlite3_bind_int64(statement, at, v); }
    int operator()(double v) const { return sqlite3_bind_double(statement, at, v); }
    // The arguments outlive the step.
    int operator()(const std::string& v) const {
      return sqlite3_bind_text64(statement, at, v.data(), v.size(), SQLITE_STATIC, SQLITE_UTF8);
    }
    int operator()(const Blob& v) const {
      if (v.bytes.empty()) return sqlite3_bind_zeroblob(statement, at, 0);
      return sqlite3_bind_blob64(statement, at, v.bytes.data(), v.bytes.size(), SQLITE_STATIC);
    }
  };
  for (int i = 0; i < wanted; ++i)
    if (std::visit(Binder{statement, i + 1}, args[static_cast<std::size_t>(i)]) != SQLITE_OK)
      return refused(sqlite3_sql(statement));
  return {};
}

Result<Rows> Sqlite::step(sqlite3_stmt* statement, std::size_t most) {
  Rows out;
  const int columns = sqlite3_column_count(statement);
  for (int i = 0; i < columns; ++i) out.columns.emplace_back(sqlite3_column_name(statement, i));
  const int changes_before = sqlite3_total_changes(handle_);
  int stepped = 0;
  while ((stepped = sqlite3_step(statement)) == SQLITE_ROW) {
    if (out.rows.size() == most) return Error{Code::too_large, fmt::format("a query gives more than {} rows", most)};
    Values& row = out.rows.emplace_back();
    row.reserve(static_cast<std::size_t>(columns));
    for (int i = 0; i < columns; ++i) row.push_back(column(statement, i));
  }
  if (stepped != SQLITE_DONE) return refused(sqlite3_sql(statement));
  // sqlite3_changes() speaks of the last statement that wrote, whichever it was.
  if (sqlite3_stmt_readonly(statement) == 0 && sqlite3_total_changes(handle_) != changes_before)
    out.changed = sqlite3_changes(handle_);
  return out;
}

Result<Rows> Sqlite::run(const Statement& statement, std::size_t most) {
  sqlite3_stmt* const prepared = TRY(prepare(statement.sql));
  give_up_at_ =
      timeout_.count() > 0 ? std::chrono::steady_clock::now() + timeout_ : std::chrono::steady_clock::time_point::max();
  const auto bound = bind(prepared, statement.args);
  auto rows = bound ? step(prepared, most) : Result<Rows>(bound.error());
  sqlite3_reset(prepared);
  sqlite3_clear_bindings(prepared);
  if (rows && rows->changed == 0 && statement.if_unchanged) return *statement.if_unchanged;
  return rows;
}

Result<Rows> Sqlite::read(const Statement& statement) {
  sqlite3_stmt* const prepared = TRY(prepare(statement.sql));
  if (sqlite3_stmt_readonly(prepared) == 0)
    return Error{Code::invalid, fmt::format("SQL: query() only reads: {}", statement.sql)};
  return run(statement, max_rows_);
}

Status Sqlite::run(const char* sql) {
  TRY(run(Statement{.sql = sql}));
  return {};
}

Status Sqlite::copy_to(const std::string& file, const DatabaseOptions& options) {
  static std::atomic<unsigned> count{0};
  const std::string aside = fmt::format("{}.{}-{}.new", file, ::getpid(), count.fetch_add(1));
  Status done = copy_over(aside, options);
  if (done && ::link(aside.c_str(), file.c_str()) != 0)
    done = errno == EEXIST ? Error{Code::invalid, fmt::format("{}: is there already", file)}
                           : Error{Code::io, fmt::format("{}: {}", file, std::strerror(errno))};
  ::unlink(aside.c_str());
  if (done) sync_folder_of(file);
  return done;
}

Status Sqlite::copy_over(const std::string& file, const DatabaseOptions& options) {
  TRY(make_file(file));
  sqlite3* const target = TRY(open_handle(file, SQLITE_OPEN_READWRITE, options));
  Sqlite copy(file, target, options);
  // Held while we copy, so that writers do not make the copy begin anew.
  TRY(run("BEGIN"));
  Status done = run("SELECT count(*) FROM sqlite_schema");
  if (done) {
    sqlite3_backup* const backup = sqlite3_backup_init(target, "main", handle_, "main");
    const int stepped = backup == nullptr ? SQLITE_ERROR : sqlite3_backup_step(backup, -1);
    if (sqlite3_backup_finish(backup) != SQLITE_OK || stepped != SQLITE_DONE) done = copy.refused();
  }
  TRY(run("COMMIT"));
  TRY(done);
  // One file, without a WAL beside it.
  TRY(copy.run("PRAGMA journal_mode=DELETE"));
  return copy.check_integrity();
}

Status Sqlite::check_integrity() {
  const auto before = std::exchange(timeout_, std::chrono::milliseconds(0));
  const auto rows = run(Statement{.sql = "PRAGMA integrity_check(1)"});
  timeout_ = before;
  if (!rows) return rows.error();
  if (rows->rows.size() == 1 && as_text(rows->rows[0][0]) == "ok") return {};
  return Error{Code::corrupt,
               fmt::format("{}: damaged: {}", path_, rows->rows.empty() ? "" : as_text(rows->rows[0][0]))};
}

}  // namespace ashlar::store
