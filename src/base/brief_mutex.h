// A mutex for what is done in a microsecond or two, by threads that answer requests.
#pragma once

#include <mutex>

#include "base/relax.h"

namespace ashlar {

// Who finds it taken tries again for some microseconds before it sleeps: to sleep and be woken takes longer than what
// it waits for (of two network threads at 8,000 requests a second, every fifth request slept: now every twentieth). As
// a std::mutex (std::unique_lock<std::mutex>, for a condition variable) it sleeps at once.
class BriefMutex : public std::mutex {
 public:
  void lock() {
    for (int i = 0; i < kTries; ++i) {
      if (try_lock()) return;
      for (int j = 0; j < 8; ++j) relax();
    }
    std::mutex::lock();
  }

 private:
  static constexpr int kTries = 32;
};

}  // namespace ashlar
