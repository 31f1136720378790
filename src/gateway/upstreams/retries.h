// Whether a failed attempt may be followed by another, and when.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>

namespace ashlar::gateway {

// Extra attempts (retries and hedges) beside the requests under way: at most a share of them, so that an upstream that
// is in trouble is not asked many times over. Any thread.
class RetryBudget {
 public:
  RetryBudget(double share, int floor) : share_(share), floor_(floor) {}

  void began() { ++active_; }
  void ended() { --active_; }
  int active() const { return active_; }
  // False: no more extra attempts for now. Each true needs its give_back() when the attempt is over.
  bool take() {
    const int most = std::max(floor_, static_cast<int>(share_ * active_));
    int extra = extra_.load();
    while (extra < most)
      if (extra_.compare_exchange_weak(extra, extra + 1)) return true;
    return false;
  }
  void give_back() { --extra_; }

 private:
  const double share_;
  const int floor_;
  std::atomic<int> active_ = 0, extra_ = 0;
};

// Exponential, with full jitter: anything from 0 to base * 2^(attempt - 1), at most `cap`. `attempt` counts those made,
// from 1.
template <class Random>
std::chrono::milliseconds backoff(int attempt, std::chrono::milliseconds base, std::chrono::milliseconds cap,
                                  Random& random) {
  const double most =
      std::min(static_cast<double>(cap.count()),
               static_cast<double>(base.count()) * static_cast<double>(1ull << std::min(attempt - 1, 30)));
  return std::chrono::milliseconds(
      std::uniform_int_distribution<long long>(0, std::max(0ll, static_cast<long long>(most)))(random));
}

}  // namespace ashlar::gateway
