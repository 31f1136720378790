// Turns at the machine: engines that share a thread pool compute one step each in
// the order in which they asked.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace ashlar::engine {

// Any thread. BasicLockable, and fair: whoever unlocks goes behind those who wait.
class ComputeLock {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    const std::uint64_t mine = last_++;
    turn_.wait(lock, [&] { return next_ == mine; });
  }
  void unlock() {
    {
      std::lock_guard lock(mutex_);
      ++next_;
    }
    turn_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turn_;
  std::uint64_t last_ = 0, next_ = 0;
};

}  // namespace ashlar::engine
