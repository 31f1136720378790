// Where requests wait for a place at a deployment, and which are turned away instead: so many may wait at once, and
// nobody for longer than it is worth. What is admitted is answered in time; the rest is told so at once, and does not
// take the time of the others (goodput).
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ashlar::gateway {

struct SheddingOptions {
  std::size_t most = 1000;                     // waiting at once
  std::chrono::milliseconds max_wait{10'000};  // estimated or real; longer: turned away
  // Of a deployment's places, kept free for requests more urgent than priority 0, and once more for those of 0
  // from the ones less urgent.
  double reserve = 0.1;
};

// How much work is done in a second: what ended in the last ten.
class WorkRate {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  void done(double work, TimePoint now);
  // 0: not known.
  double per_second(TimePoint now) const;

 private:
  struct Slice {
    std::int64_t second = -1;
    double work = 0;
  };
  std::array<Slice, 10> slices_;
  std::int64_t first_ = -1;
};

// Not thread-safe. Lower priorities go first; within one, who came first.
class WaitingRoom {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Rank = std::pair<int, std::uint64_t>;  // priority, order of arrival
  struct Waiter {
    std::uint64_t id = 0;
    std::string group;
    double work = 0;  // tokens
    TimePoint since, deadline = TimePoint::max();
    std::chrono::milliseconds most{0};  // that it is worth waiting for; 0: as long as anybody
  };
  struct Verdict {
    bool admitted = false;
    std::string why;
    std::chrono::milliseconds wait{0};     // estimated
    std::optional<std::uint64_t> evicted;  // who had to go for it
  };

  explicit WaitingRoom(SheddingOptions options) : options_(options) {}

  // Takes it in, or says why not. `rate`: work per second of its group.
  Verdict offer(Rank rank, Waiter waiter, double rate, TimePoint now);
  // One that was here and comes back: it was chosen, and the place was gone.
  void take_back(Rank rank, Waiter waiter);
  // The most urgent of a group leaves the room; nothing: nobody waits.
  std::optional<std::pair<Rank, Waiter>> next(const std::string& group);
  // Those that waited too long, or whose deadline passed. They leave.
  std::vector<std::uint64_t> expired(TimePoint now);
  void leave(Rank rank) { waiters_.erase(rank); }
  // When the next of them is too late.
  TimePoint next_expiry() const;
  std::size_t size() const { return waiters_.size(); }
  std::vector<std::string> groups() const;
  struct Queue {
    int requests = 0;
    double work = 0;
  };
  std::map<std::string, Queue> queues() const;  // by group

 private:
  std::chrono::milliseconds most_wait(const Waiter& waiter) const {
    return waiter.most.count() > 0 ? std::min(waiter.most, options_.max_wait) : options_.max_wait;
  }

  SheddingOptions options_;
  std::map<Rank, Waiter> waiters_;
};

}  // namespace ashlar::gateway
