// How many requests at once a deployment takes well, found by trying: as many as make it faster.
//
// A limit on the time of a token (Gradient2 and its like) drifts: under lasting load what is usual becomes what is
// slow. What counts is what comes out, so that is measured: while more ask than have a place, a few more requests are
// let in for two seconds, then a few fewer, and the limit moves to where it made the difference. In between it rests,
// longer each time that nothing was found, and, once nothing was found either way, as long as it may while there are
// urgent requests, for which no place is kept during a measurement.
#pragma once

#include <chrono>
#include <cstdint>

namespace ashlar::gateway {

struct ConcurrencyOptions {
  int least = 1, first = 32, most = 4096;
  std::chrono::milliseconds settle{500}, window{2'000};  // of a measurement: what is left out of it, and what is taken
  // Of a tenth more requests: the share of a tenth more tokens that makes them worth it. Less, and all only wait
  // longer.
  double worth = 0.25;
  std::chrono::milliseconds rest{10'000}, longest_rest{300'000};
};

// Not thread-safe.
class ConcurrencyLimit {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  // What a deployment has done up to now.
  struct Done {
    std::int64_t tokens = 0;       // of answers
    std::int64_t first_count = 0;  // first tokens
    double first_seconds = 0;      // what all of them together were waited for
  };

  explicit ConcurrencyLimit(ConcurrencyOptions options) : options_(options), limit_(options.first) {}

  // Some fraction of a second has passed. `running`: requests there now; `pressed`: since the last call somebody found
  // no place there; `slow`: seconds for a token that are too many (0: none are); `urgent`: there were urgent requests
  // in the last minute.
  void turn(TimePoint now, const Done& done, int running, bool pressed, double slow = 0, bool urgent = false);
  // A call was refused for load or came too late.
  void overload(TimePoint now);
  int limit() const { return limit_; }
  // A measurement is under way, for which every place should be taken.
  bool measures() const { return step_ != Step::rest; }

 private:
  enum class Step { base, up, down, rest };
  struct Found {
    double rate = 0, first = 0;  // tokens a second; mean seconds to the first token
  };

  void measure(Step step, int limit, TimePoint now);
  void judge(const Found& found, TimePoint now);
  void settle_at(int limit, TimePoint now, Step next, bool found_out = true);

  const ConcurrencyOptions options_;
  int limit_;
  Step step_ = Step::base, next_ = Step::up;
  bool starting_ = true;  // nothing was ever found too much: it grows by halves
  int base_limit_ = 0;
  Found base_;
  std::chrono::milliseconds rest_{0};
  TimePoint settled_{}, backed_off_{};
  bool found_out_ = false;  // by a measurement that what it settled at is right
  // The measurement under way:
  TimePoint began_{};
  Done from_;
  bool counting_ = false;
  int turns_ = 0, pressed_turns_ = 0;
  double running_ = 0;
};

// Places that are kept free for those more urgent, so that of a hundred of them less than one finds none: urgent
// requests come and places become free at random, which makes it a queue of its own (M/M/1), and k places are all taken
// for a share of the time that is (coming / becoming free)^k. Not thread-safe.
class Reserve {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  void came() { ++came_; }            // one of the urgent got a place
  void ended() { ++ended_; }          // any place became free
  bool seen() const { return any_; }  // urgent ones, in the last minute
  void turn(TimePoint now);
  // Of `places`; at least the share `floor` of them while urgent ones were seen in the last minute, and one; at most
  // half.
  int places(int places, double floor) const;

 private:
  double came_ = 0, ended_ = 0;     // since the last turn
  double coming_ = 0, ending_ = 0;  // a second
  TimePoint turned_{}, seen_{};
  bool any_ = false;
};

}  // namespace ashlar::gateway
