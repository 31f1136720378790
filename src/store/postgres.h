// One connection to a PostgreSQL server.
//
// Writes go in pipeline mode (libpq 14): every list of a batch is sent at once, each
// ended by a Sync, which makes it a transaction of its own; the answers are read
// behind. Those transactions commit without waiting for the server's disk, and a last
// one waits: the log is one sequence, so that what came before it is on the disk too
// (and on the standbys that synchronous_commit asks for). A batch costs one round trip
// and one fsync, and holds no row of one list while another runs.
//
// A condition (Statement::if_unchanged) is put to the server with its statement:
//   WITH w AS (UPDATE ... RETURNING 1) SELECT CASE count(*) WHEN 0 THEN <an error> ... FROM w
// which fails, and undoes its list, where nothing was changed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "store/database.h"
#include "store/placeholders.h"
#include "store/pq.h"
#include "store/write_queue.h"

namespace ashlar::store {

// A sentence of libpq in one line.
std::string one_line(std::string text);

// One thread at a time.
class Postgres {
 public:
  enum class Mode { write, read };
  // unavailable: no server, or it does not let us in; unsupported: no libpq.
  static Result<std::unique_ptr<Postgres>> connect(const std::string& url, Mode mode, const DatabaseOptions& options);
  ~Postgres();
  Postgres(const Postgres&) = delete;
  Postgres& operator=(const Postgres&) = delete;

  // False: the connection is gone, or no longer in a state to be used.
  bool is_whole();
  Result<Rows> read(const Statement& statement);
  // Gives each write its outcome; those that met a deadlock or the like have none yet,
  // unless `last`.
  void write(std::vector<Write*>& batch, bool last);

 private:
  // An answer that is due.
  struct Due {
    enum class Kind { statement, aside, sync } kind = Kind::aside;
    std::size_t write = 0;  // in the batch; its size: of none
    std::size_t statement = 0;
  };
  struct Progress {
    std::vector<Rows> rows;
    std::optional<Error> error;
    bool again = false;  // the server asks that it be tried once more
    bool sent = false;
    std::string lost;  // why its answer is not known
  };
  struct Batch {
    std::vector<Write*>& writes;
    std::vector<Progress> progress;
    std::optional<Error> not_durable;
    std::chrono::milliseconds patience;  // for each answer
  };
  using Clock = std::chrono::steady_clock;
  // In the error of a condition that does not hold.
  static constexpr std::string_view kUnchanged = "ashlar: unchanged";

  Postgres(const Pq& pq, PGconn* handle, Mode mode, const DatabaseOptions& options)
      : pq_(pq), handle_(handle), mode_(mode), options_(options) {}
  Status prepare();
  Status check_places(const Statement& statement);
  Status send(const Statement& statement, bool with_condition = false);
  Status send_aside(const Statement& statement, std::size_t write);
  Status send_sync(std::size_t write);
  Status send_write(const Write& write, std::size_t at);
  Status send_durable_mark(std::size_t none);
  Status flush(Clock::time_point deadline);
  Status wait(short events, Clock::time_point deadline);
  Result<PGresult*> next(Clock::time_point deadline);
  Status read_due(Batch& batch);
  void note(Batch& batch, const Due& due, PGresult* result);
  void take_rows(PGresult* result, Rows& rows) const;
  Error refused(PGresult* result) const;
  // The server ends a statement by itself; one that says nothing for longer is gone.
  std::chrono::milliseconds patience() const {
    return options_.statement_timeout +
           std::min<std::chrono::milliseconds>(options_.statement_timeout, std::chrono::seconds(3));
  }
  Error broken(std::string_view doing);
  bool is_connected() const { return !broken_ && pq_.PQstatus(handle_) == CONNECTION_OK; }
  const Numbered& numbered(const std::string& sql);

  const Pq& pq_;
  PGconn* const handle_;
  const Mode mode_;
  const DatabaseOptions options_;
  std::string durable_commit_;  // the server's own synchronous_commit, or "on"
  std::deque<Due> due_;
  bool broken_ = false;
  std::unordered_map<std::string, Numbered> numbered_;
};

}  // namespace ashlar::store
