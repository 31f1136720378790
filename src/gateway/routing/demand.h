// How many deployments a route needs, for those who scale them: HPA, KEDA, an operator.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/metrics.h"

namespace ashlar::gateway {

struct DemandOptions {
  double target = 0.7;                             // how busy a deployment should be
  std::chrono::milliseconds drain{30'000};         // in which what waits should be gone
  std::chrono::milliseconds idle{600'000};         // without a request for so long: none is needed
  std::chrono::milliseconds half_life{3'600'000};  // of the capacity that was measured
};

// What a route's deployments do now, those that are in service.
struct RouteUse {
  int ready = 0;                 // of them
  int running = 0, waiting = 0;  // requests: there, and before them or in their own queues
  int places = 0;                // requests that they take at once; 0: no bound is known
  double placed = 0;             // the sum of each one's running requests over its places, where it has a bound
  double memory = 0;             // the sum of each one's share of its KV memory
  double waiting_tokens = 0;     // of those that wait before them
  double outstanding_tokens = 0;
  double tokens_per_second = 0;  // that ended in the last seconds, prompts and answers
};

// The sum of how busy each is, and what waits, over how busy one should be:
//
//   busy    = max(memory, placed, tokens_per_second / capacity)
//   queue   = waiting_tokens / (capacity * drain), or 1 where somebody waits and no capacity is known
//   desired = ceil((busy + queue) / target), at least 1 until no request came for `idle`
//
// Capacity is the tokens in a second of one deployment: as configured, or the most that was seen while all its places
// were taken or requests waited, which halves in an hour. Not thread-safe.
class Demand {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  explicit Demand(DemandOptions options) : options_(options) {}
  // `capacity`: 0: measured. Returns the deployments that are wanted.
  int look(const RouteUse& use, double capacity, TimePoint now);
  // 0: not known.
  double capacity() const { return capacity_; }

 private:
  DemandOptions options_;
  double capacity_ = 0;
  std::optional<TimePoint> looked_, used_;
};

struct RouteMetrics {
  explicit RouteMetrics(const std::string& route);
  Gauge outstanding, waiting, running, memory, rate, capacity, ready, desired;
  void set(const RouteUse& use, double capacity, int desired);
};

}  // namespace ashlar::gateway
