#include "base/guest_loops.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace ashlar {

thread_local constinit GuestLoops* GuestLoops::here_ = nullptr;

void GuestLoops::run(ThreadPool& pool, int count, FunctionRef<void(int, int)> fn) {
  using Clock = std::chrono::steady_clock;
  GuestLoops* const self = std::exchange(here_, nullptr);  // a slice is a loop of the pool's own
  std::atomic<int> next{0};
  while (next.load(std::memory_order_relaxed) < count) {
    const auto asked = Clock::now();
    lock_(turns_);
    const auto begun = Clock::now();
    const auto waited = begun - asked;
    const auto fair = std::min(waited, std::exchange(waited_, waited));  // of two, for one may be an odd one
    const auto end = begun + std::clamp<Clock::duration>(fair, slices_.least, slices_.most);
    pool.for_each(pool.size(), [&](int, int worker) {
      do {
        const int index = next.fetch_add(1, std::memory_order_relaxed);
        if (index >= count) return;
        fn(index, worker);
      } while (Clock::now() < end);
    });
    unlock_(turns_);
  }
  here_ = self;
}

}  // namespace ashlar
