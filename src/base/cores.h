// Threads as the scheduler sees them: where they run, and whether they run at all.
#pragma once

#include <sched.h>

#include <chrono>
#include <vector>

namespace ashlar {

// The cores that this process may use (the affinity mask of its first thread), rising.
std::vector<int> allowed_cores();

// A live thread of this process. Any thread may ask.
struct ThreadId {
  int tid = 0;
  clockid_t clock = 0;  // of its processor time

  static ThreadId current();
  std::chrono::nanoseconds processor_time() const;
};

// Confines a thread to one core, or to some; one that waits for a busy core moves at once.
void confine(const ThreadId& thread, int core);
void confine(const ThreadId& thread, const cpu_set_t& cores);
cpu_set_t confinement(const ThreadId& thread);

// Watches a thread that should be computing: has it lost its core to somebody else?
class Watch {
 public:
  // True if the thread hardly ran since it was last asked about. The first
  // question about a thread only starts the watch.
  bool held_up(const ThreadId& thread);

 private:
  int tid_ = 0;
  std::chrono::steady_clock::time_point asked_;
  std::chrono::nanoseconds ran_{};
};

}  // namespace ashlar
