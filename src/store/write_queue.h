// Writes that wait, and the one thread that does them: whatever came while the last
// batch was written is the next batch. Where nobody waits for any of them, more are
// waited for a moment first: what a batch costs is the wait for the disk. Shared by
// the twins of Database.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
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
  bool awaited = false;      // somebody stands still until it is done
  std::uint64_t number = 0;  // in the order of coming, from 1
  std::size_t bytes = 0;
  std::optional<Database::Written> outcome;  // set by the batch
};

// Any thread, but for the batch's function, which runs on the queue's own.
class WriteQueue {
 public:
  // Gives each write its outcome.
  using Batch = std::function<void(std::vector<Write>&)>;

  WriteQueue(const DatabaseOptions& options, Batch batch);
  // Writes what waits, for as long as one statement may take; the rest is told that it is not written (cancelled).
  ~WriteQueue();
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;

  // As Database::transact() and write_later().
  Database::Written wait_for(std::vector<Statement> statements, bool unhurried);
  Status write_later(std::vector<Statement> statements, Database::Done done);
  // As Database::drain() and health().
  Status drain();
  Status health() const;

 private:
  using Clock = std::chrono::steady_clock;

  // Its number.
  Result<std::uint64_t> push(Write write);
  bool withdraw(std::uint64_t number);
  void work();
  std::vector<Write> next_batch();
  void count_out(std::size_t writes, std::size_t bytes);
  void told();
  bool is_too_late();

  const std::size_t max_waiting_, max_waiting_bytes_;
  const std::chrono::milliseconds patience_;
  const Batch batch_;
  mutable std::mutex mutex_;
  std::condition_variable came_, told_some_;
  std::deque<Write> waiting_;
  std::size_t waiting_count_ = 0, waiting_bytes_ = 0;  // with those of the batch at work
  std::size_t awaited_ = 0;                            // of waiting_
  // Numbers: the last that came; up to which all were told what became of them; which was the last to come at mark_at_.
  // So where told_ < mark_, something waits since mark_at_ or longer.
  std::uint64_t number_ = 0, told_ = 0, mark_ = 0;
  Clock::time_point mark_at_, stop_by_;
  bool stopping_ = false;
  std::jthread thread_;
};

// invalid: a value that not both twins would take.
Status check_values(const Values& values);

}  // namespace ashlar::store
