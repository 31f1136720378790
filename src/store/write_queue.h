// Writes that wait, and the one thread that does them: whatever came while the last
// batch was written is the next batch. Where nobody waits for any of them, more are
// waited for a moment first: what a batch costs is the wait for the disk. Shared by
// the twins of Database.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "store/database.h"

namespace ashlar::store {

// One list on its way.
struct Write {
  std::vector<Statement> statements;
  Database::Done done;
  bool unhurried = false;
  bool awaited = false;  // somebody stands still until it is done
  std::size_t bytes = 0;
  std::optional<Database::Written> outcome;  // set by the batch
};

// Any thread, but for the batch's function, which runs on the queue's own.
class WriteQueue {
 public:
  // Gives each write its outcome.
  using Batch = std::function<void(std::vector<Write>&)>;

  WriteQueue(const DatabaseOptions& options, Batch batch);
  // Writes what waits.
  ~WriteQueue();
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;

  // As Database::transact() and write_later().
  Database::Written wait_for(std::vector<Statement> statements, bool unhurried);
  Status write_later(std::vector<Statement> statements, Database::Done done);

 private:
  Status push(Write write);
  void work();
  std::vector<Write> next_batch();

  const std::size_t max_waiting_, max_waiting_bytes_;
  const Batch batch_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<Write> waiting_;
  std::size_t waiting_count_ = 0, waiting_bytes_ = 0;  // with those of the batch at work
  std::size_t awaited_ = 0;                            // of waiting_
  bool stopping_ = false;
  std::jthread thread_;
};

// invalid: a value that not both twins would take.
Status check_values(const Values& values);

}  // namespace ashlar::store
