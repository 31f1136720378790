// What a person sees of a pull: how much has come, how fast, and how long it will
// take.
#pragma once

#include <chrono>
#include <deque>
#include <string>
#include <utility>

#include "store/model_store.h"

namespace ashlar::cli {

// "00:07", "1:02:03"
std::string clock_text(std::chrono::seconds time);

// Bytes per second over the last seconds. One thread.
class ArrivalRate {
 public:
  using Clock = std::chrono::steady_clock;
  void note(Clock::time_point now, std::uint64_t bytes);
  double per_second() const;  // 0: not known yet

 private:
  std::deque<std::pair<Clock::time_point, std::uint64_t>> samples_;
};

// Draws on stderr: one line that moves on a terminal, a line every few seconds
// elsewhere. The line is erased by the destructor.
class PullScreen {
 public:
  explicit PullScreen(std::string name);
  ~PullScreen();
  PullScreen(const PullScreen&) = delete;
  PullScreen& operator=(const PullScreen&) = delete;

  // A watch for the store: draws, and ends the pull with `cancelled` on Ctrl-C.
  store::PullWatch watch();

 private:
  void draw(const store::PullProgress& progress);

  const std::string name_;
  const bool terminal_;
  ArrivalRate rate_;
  ArrivalRate::Clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace ashlar::cli
