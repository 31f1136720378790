// Whether a deployment is asked at all: three states, and four triggers that open it.
//
//   closed ── a trigger ──> open ── `open_for` ──> half-open ── `probes_to_close` good ones ──> closed
//                             ^────────── a bad probe ─────────────┘
//
// Triggers: the share of failed calls in a sliding window; the P99 of the time to the first token, above its
// threshold throughout a minute; memory; queue. The last two hold as long as the signal says so.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ashlar::gateway {

struct BreakerOptions {
  double error_rate = 0.5;                   // above it; 1 and more: never
  std::chrono::milliseconds window{10'000};  // of the error rate
  int minimum_calls = 10;                    // in the window, before a rate means anything
  std::chrono::milliseconds slow{10'000};    // P99 above it; 0: never
  std::chrono::milliseconds slow_for{60'000};
  double memory = 0.95;                         // share, above it; 0: never
  std::chrono::milliseconds memory_for{5'000};  // a full batch passes; a leak stays
  int queue = 1000;                             // waiting requests, above it; 0: never
  std::chrono::milliseconds open_for{15'000};   // before it is tried again
  int probes = 3;                               // at once, half-open
  int probes_to_close = 3;
  bool operator==(const BreakerOptions&) const = default;
};

// What a deployment says of itself, or a probe of it.
struct Signals {
  double memory = 0;  // share
  int queue = 0;
};

// Not thread-safe. Times never go back.
class Breaker {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  enum class State { closed, open, half_open };
  // automatic: by the triggers. forced_*: as somebody said. watching: counts and tells, and refuses nobody.
  enum class Mode { automatic, forced_open, forced_closed, watching };
  // A call that was let through. What comes of it is told with done(), or forgotten with drop().
  struct Call {
    std::uint64_t era = 0;  // of the state that let it through: a probe of an older era decides nothing
    bool probe = false;
  };
  struct Change {
    State state;
    std::string why;
  };

  explicit Breaker(BreakerOptions options) : options_(options) {}

  // Whether a call may go now. Moves open to half-open when it is time.
  bool admits(TimePoint now);
  // admits() was true: takes a place.
  Call begin();
  // `first_token`: how long the first token took, or how long it was waited for in vain.
  void done(const Call& call, bool good, std::optional<std::chrono::nanoseconds> first_token, TimePoint now);
  void drop(const Call& call);
  void signal(const Signals& signals, TimePoint now);
  void force(Mode mode, TimePoint now);
  // Other thresholds from now on; what was counted stays.
  void change_options(const BreakerOptions& options) { options_ = options; }

  State state() const;
  Mode mode() const { return mode_; }
  // When an open one will be tried: for Retry-After.
  TimePoint opens_again() const { return until_; }
  // The change of state since this was last asked, if any.
  std::optional<Change> changed();

 private:
  // Counts over a sliding window, in slices of a tenth.
  struct Window {
    struct Slice {
      std::int64_t number = -1;
      int calls = 0, bad = 0;
    };
    std::array<Slice, 10> slices;
    void add(bool bad, std::chrono::nanoseconds length, TimePoint now);
    Slice sum(std::chrono::nanoseconds length, TimePoint now) const;
  };

  void judge_speed(TimePoint now);
  void open(std::string why, TimePoint now);
  void enter(State state, std::string why);

  BreakerOptions options_;
  Mode mode_ = Mode::automatic;
  State state_ = State::closed;
  std::uint64_t era_ = 0;
  TimePoint until_{};
  Window failed_, slow_;
  std::optional<TimePoint> slow_since_, full_since_;
  bool overloaded_ = false;  // memory or queue says so still
  int probing_ = 0, proven_ = 0;
  std::optional<Change> change_;
};

std::string_view name(Breaker::State state);

}  // namespace ashlar::gateway
