// What goes on beside requests: leases are renewed while they run, and budgets that were settled are looked at for
// alerts. On a thread of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gateway/limits/limits.h"
#include "gateway/limits/rules.h"
#include "store/counters.h"

namespace ashlar::gateway {

// Any thread. `counters` outlives it.
class LimitsWorker {
 public:
  LimitsWorker(store::Counters& counters, std::function<void(const BudgetAlert&)> on_alert);

  // The seats of this reservation, until it has ended().
  void renews(const std::string& id, std::chrono::milliseconds lease);
  void ended(const std::string& id);
  void look_at(std::vector<std::pair<Rule, Applied>> budgets);

 private:
  using Clock = std::chrono::steady_clock;
  struct Seat {
    std::chrono::milliseconds every;
    Clock::time_point due;
  };

  void work(const std::stop_token& stop);
  std::vector<std::string> due_seats(Clock::time_point now);  // under the lock
  void look(const Rule& rule, const Applied& applied);

  store::Counters& counters_;
  const std::function<void(const BudgetAlert&)> on_alert_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::unordered_map<std::string, Seat> seats_;                       // GUARDED_BY(mutex_)
  Clock::time_point soonest_ = Clock::now() + std::chrono::hours(1);  // GUARDED_BY(mutex_); no seat is due before
  std::map<std::string, std::pair<Rule, Applied>> budgets_;           // GUARDED_BY(mutex_); by their keys
  Clock::time_point look_due_ = Clock::time_point::max();             // GUARDED_BY(mutex_); at them
  std::jthread thread_;                                               // last: it ends before what it uses
};

}  // namespace ashlar::gateway
