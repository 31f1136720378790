// Whether a request may queue: bounds on the queue, and an estimate of the wait
// from the backlog and the measured pace.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "engine/generator.h"
#include "engine/pace.h"

namespace ashlar::engine {

struct AdmissionLimits {
  int max_queued_requests = 1024;
  std::int64_t max_queued_tokens = 0;     // 0: no bound
  std::chrono::milliseconds max_wait{0};  // 0: as long as the deadline allows
  int max_sequences = 64;
  std::int64_t cache_tokens = 0;  // positions that the KV cache holds
};

// What the engine is busy with, as it last said.
struct Occupancy {
  int running = 0;                  // sequences
  std::int64_t prompt_backlog = 0;  // prompt tokens of running sequences still to compute
};

// Not locked: its owner locks.
class Admission {
 public:
  explicit Admission(AdmissionLimits limits) : limits_(limits) {}

  // What a request weighs while it waits for its first step.
  struct Entry {
    int priority = 0;
    std::int64_t tokens = 0;
    int sequences = 1;
  };
  // Nothing: it may queue. exhausted: the queue is full (that of urgent requests, or that of the others); unavailable:
  // it would wait longer than its deadline or max_wait allows.
  std::optional<Generator::Refusal> refuse(const Entry& entry, Clock::time_point deadline, Clock::time_point now,
                                           const Pace& pace) const;
  void enter(const Entry& entry);
  void leave(const Entry& entry);
  void occupy(Occupancy occupancy) { occupancy_ = occupancy; }

  // Until a new request of this class would begin. 0 while the pace is unknown.
  std::chrono::duration<double> wait(int priority, const Pace& pace) const;

 private:
  struct Queued {
    int requests = 0;
    std::int64_t tokens = 0;
    std::int64_t sequences = 0;
  };

  Queued beside(int priority) const;

  AdmissionLimits limits_;
  Occupancy occupancy_;
  Queued total_;
  std::map<int, Queued> classes_;
};

}  // namespace ashlar::engine
