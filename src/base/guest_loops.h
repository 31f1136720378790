// Long loops on a pool that others compute on.
#pragma once

#include <chrono>

#include "base/threads.h"

namespace ashlar {

// While it lives, the loops that its thread runs on any ThreadPool are cut into
// slices, each between turns.lock() and turns.unlock(). Those who compute on the pool
// within turns of their own then wait for a slice, never for a loop; the lock must be
// fair, or they wait for longer. A slice takes as long as the waits for it do, within
// bounds, so that two who are busy have half of the time each; a loop's single index is
// not cut. A loop of one index takes no turn: it runs on its caller alone. Lives and
// dies on one thread; `turns` must outlive it.
class GuestLoops {
 public:
  struct Slices {
    std::chrono::microseconds least{4'000}, most{50'000};
  };

  template <class Lock>
  explicit GuestLoops(Lock& turns) : GuestLoops(turns, Slices()) {}
  template <class Lock>
  GuestLoops(Lock& turns, Slices slices)
      : turns_(&turns),
        lock_([](void* lock) { static_cast<Lock*>(lock)->lock(); }),
        unlock_([](void* lock) { static_cast<Lock*>(lock)->unlock(); }),
        slices_(slices),
        above_(here_) {
    here_ = this;
  }
  ~GuestLoops() { here_ = above_; }
  GuestLoops(const GuestLoops&) = delete;
  GuestLoops& operator=(const GuestLoops&) = delete;

  // This thread's; null: its loops are its own.
  static GuestLoops* here() { return here_; }
  // ThreadPool::for_each(), in slices.
  void run(ThreadPool& pool, int count, FunctionRef<void(int index, int worker)> fn);

 private:
  static thread_local constinit GuestLoops* here_;

  void* const turns_;
  void (*const lock_)(void*);
  void (*const unlock_)(void*);
  const Slices slices_;
  std::chrono::steady_clock::duration waited_{};  // for the last slice
  GuestLoops* const above_;
};

}  // namespace ashlar
