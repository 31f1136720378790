// Relational state: keys, budgets, usage, whatever outlives the process. SQLite in
// a file on this machine, or PostgreSQL when several machines share it; twins under
// one suite of tests.
//
// SQL is written once: `?` stands for an argument, conflicts are ON CONFLICT ... DO,
// and columns are BIGINT, DOUBLE PRECISION, TEXT, and $BYTES in migrations
// (store/migrations.h). No transaction stays open while a caller thinks: a write is a
// list of statements that is sent whole, and what must hold is said in the
// statements themselves. So a budget is exact whoever else writes at the same time:
//
//   database.transact({{.sql = "UPDATE budgets SET used = used + ? WHERE id = ? AND used + ? <= most",
//                       .args = {cost, id, cost},
//                       .if_unchanged = Error{Code::exhausted, "the budget is used up"}}});
//
// A statement sees what those before it in its list have written, and whatever
// others have committed: between two SELECTs of a list the world may move on, so a
// decision belongs into the WHERE of the statement that writes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace ashlar::store {

struct Blob {
  std::string bytes;
  bool operator==(const Blob&) const = default;
};

// Texts are UTF-8 without NUL; a double is not NaN.
using Value = std::variant<std::monostate, std::int64_t, double, std::string, Blob>;
using Values = std::vector<Value>;

// What is of another kind, or null, reads as 0 or "".
std::int64_t as_int(const Value& value);
double as_double(const Value& value);
const std::string& as_text(const Value& value);
const std::string& as_bytes(const Value& value);
inline bool is_null(const Value& value) { return std::holds_alternative<std::monostate>(value); }

struct Statement {
  std::string sql;
  Values args;
  // Where it changes no row, nothing of its list is written, and this is the list's error.
  std::optional<Error> if_unchanged;
};

struct Rows {
  std::vector<std::string> columns;
  std::vector<Values> rows;  // of a SELECT, or of RETURNING
  std::int64_t changed = 0;  // rows inserted, updated or deleted
};

struct DatabaseOptions {
  std::chrono::milliseconds statement_timeout{30'000};  // of one statement; also of waiting for a connection
  std::chrono::milliseconds busy_timeout{10'000};       // SQLite: for another process that writes
  std::chrono::milliseconds connect_timeout{5'000};     // PostgreSQL
  std::chrono::milliseconds longest_backoff{5'000};     // PostgreSQL: between two tries to connect
  int readers = 8;                                      // queries at once; more wait
  std::size_t max_rows = 200'000;                       // of one query: too_large beyond
  std::size_t max_waiting = 20'000;                     // lists of statements that wait to be written
  std::size_t max_waiting_bytes = 64 << 20;             // and what they weigh
  std::int64_t max_bytes = 0;                           // SQLite: of the file; 0: as the disk has room
};

enum class Dialect { sqlite, postgres };

// Any thread may call anything. Writes pass through one thread of the database's own,
// which takes all that wait, in their order, and makes them durable together; reads
// run beside them. Who returned from transact() finds what it wrote in every later
// query().
//
// Durable: on the disk, safe from kill -9 and from a power cut. A list is there
// whole or not at all, after either.
//
// Errors, in one sentence each:
//   invalid      a constraint refused it (a key that is there already), a value
//                that is none (above), a query() that would write
//   io           the disk is full or failed; nothing of the list is written; the next
//                write tries anew
//   unavailable  too much waits to be written; another process keeps the file busy; the
//                server is down (told at once, while connecting is tried again with
//                growing pauses). If the connection broke in the middle of a write, the
//                sentence says so: then it may have been written or not, and only what
//                does no harm twice (ON CONFLICT DO NOTHING, a condition on a version)
//                may be sent again. Who waits in transact() is told after statement_timeout
//                that nothing is written, if its turn did not come; if its turn did not
//                end, after three times as long, that it may be written or not.
//   deadline     over statement_timeout; nothing is written
//   too_large    over max_rows, or one list over max_waiting_bytes
//   corrupt      the file is no database, or is damaged
//   internal     the SQL is wrong
// or the if_unchanged of a statement. None needs a restart: when the cause is gone, it works.
class Database {
 public:
  using Written = Result<std::vector<Rows>>;  // one for each statement
  using Done = std::function<void(Written)>;

  // Lists that wait are written first; those for which statement_timeout is not enough are
  // told that they are not (cancelled).
  virtual ~Database() = default;

  // One statement that only reads.
  virtual Result<Rows> query(std::string_view sql, Values args = {}) = 0;

  // All of it or nothing, durable on return. unhurried: without statement_timeout.
  virtual Written transact(std::vector<Statement> statements, bool unhurried = false) = 0;

  // The same without waiting: `done`, if there is one, is called exactly once, on the
  // database's thread, when it is durable or has failed. It must be quick, and must not
  // call transact(). An error (unavailable, too_large, invalid): nothing was taken, and
  // `done` is not called.
  virtual Status write_later(std::vector<Statement> statements, Done done) = 0;

  // A copy of this moment in one file, while others write; it is there whole or not at
  // all. invalid: such a file is there already; io; unsupported: PostgreSQL, which has
  // pg_dump.
  virtual Status backup(const std::string& file) = 0;

  virtual Dialect dialect() const = 0;
  // For messages: the file's path, or the server and its database, without secrets.
  virtual const std::string& name() const = 0;

  // Returns when all that was taken before has been written or refused, and its `done`
  // has returned. deadline: not within statement_timeout.
  virtual Status drain() = 0;
  // unavailable: some writes have waited for five seconds or longer; how many and how long.
  virtual Status health() const = 0;
};

// "postgres://..." or "postgresql://...", else the path of a file, which is made for
// its owner alone (0600) if it is not there. A server that is down is no error here:
// the calls tell. invalid, io, corrupt; unavailable: the file is being restored;
// unsupported: libpq is not on this machine.
Status check_location(const std::string& where);  // invalid: neither; nothing is opened
Result<std::unique_ptr<Database>> open_database(const std::string& where, const DatabaseOptions& options = {});

struct StateOptions {
  std::string data_dir;  // "": see default_store_folder()
  std::string database;  // "": state.db in data_dir
  void fields(auto&& field) {
    field("data_dir", data_dir,
          "Folder of Ashlar's own state; left out: $XDG_DATA_HOME/ashlar or ~/.local/share/ashlar.");
    field("database", database,
          "Where keys, budgets and usage are kept: postgres://USER@HOST/NAME, or a file; left out: state.db in "
          "data_dir.");
  }
};
// ASHLAR_DATA_DIR, ASHLAR_DATABASE.
StateOptions state_options_from_environment();
// What open_database() takes. invalid: no folder can be named.
Result<std::string> state_location(const StateOptions& options);
// Of what stands beside the database. invalid: no folder can be named.
Result<std::string> state_folder(const StateOptions& options);

}  // namespace ashlar::store
