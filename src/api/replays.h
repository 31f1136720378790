// Requests that carry an Idempotency-Key: who sends one again gets the answer that the first one had.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "api/errors.h"

namespace ashlar::api {

// In memory, the last 1,000 for ten minutes. Any thread.
class Replays {
 public:
  using Clock = std::chrono::steady_clock;

  // nullopt: it is the first, and end() or forget() must follow. The answer's body: it was answered. Faults: the same
  // key came with another body (422), or the first has no answer yet (409).
  Outcome<std::optional<std::string>> begin(const std::string& key, const std::string& body,
                                            Clock::time_point now = Clock::now());
  void end(const std::string& key, std::string answer);
  void forget(const std::string& key);  // it failed: the next may try

 private:
  struct Entry {
    std::size_t body = 0;  // a fingerprint
    std::optional<std::string> answer;
    Clock::time_point began;
  };
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;                          // GUARDED_BY(mutex_)
  std::deque<std::pair<Clock::time_point, std::string>> oldest_;  // GUARDED_BY(mutex_)
};

}  // namespace ashlar::api
