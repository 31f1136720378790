// How fast a deployment is, and how many requests at once it takes well.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

namespace ashlar::gateway {

// A peak-sensitive moving average: a sample above it is taken at once, one below pulls it down by age, and without
// samples it halves every half-life, so that a slow deployment is tried again. Not thread-safe.
class PeakEwma {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  explicit PeakEwma(std::chrono::nanoseconds half_life) : half_life_(half_life) {}

  void sample(double seconds, TimePoint now) {
    const double kept = weight(now);
    value_ = !known_ || seconds > value_ * kept ? seconds : value_ * kept + seconds * (1 - kept);
    known_ = true;
    at_ = now;
  }
  // nothing: never sampled.
  std::optional<double> value(TimePoint now) const {
    if (!known_) return std::nullopt;
    return value_ * weight(now);
  }

 private:
  double weight(TimePoint now) const {
    const auto age = std::max(std::chrono::nanoseconds{0}, std::chrono::nanoseconds{now - at_});
    return std::exp2(-static_cast<double>(age.count()) / static_cast<double>(half_life_.count()));
  }
  std::chrono::nanoseconds half_life_;
  double value_ = 0;
  bool known_ = false;
  TimePoint at_{};
};

struct ConcurrencyOptions {
  bool adaptive = false;
  double least = 1, first = 20, most = 200;
  double tolerance = 1.5;  // how much slower than usual is still usual
  double smoothing = 0.2;
  double headroom = 4;    // requests that may queue there
  int long_window = 600;  // samples
};

// The limit of Netflix's Gradient2 (concurrency-limits), on the time for each token: a round trip says how long an
// answer was, the time of a token how crowded the batch is. Not thread-safe.
class Gradient {
 public:
  explicit Gradient(ConcurrencyOptions options) : options_(options), limit_(options.first) {}

  // An answer ended: its seconds for each token, and how many requests ran beside it.
  void sample(double seconds_per_token, int running) {
    if (seconds_per_token <= 0) return;
    if (samples_ < options_.long_window) ++samples_;
    usual_ += (seconds_per_token - usual_) / samples_;
    // After a long slow time the usual must not keep the limit up: it comes down faster than it rises.
    if (usual_ > 2 * seconds_per_token) usual_ *= 0.95;
    if (running < limit_ / 2) return;  // an idle deployment says nothing of its limit
    const double gradient = std::clamp(options_.tolerance * usual_ / seconds_per_token, 0.5, 1.0);
    const double wanted = limit_ * gradient + options_.headroom;
    limit_ = std::clamp(limit_ * (1 - options_.smoothing) + wanted * options_.smoothing, options_.least, options_.most);
  }
  // A call was refused for load or came too late.
  void overload() { limit_ = std::max(options_.least, limit_ * 0.9); }
  int limit() const { return static_cast<int>(limit_); }

 private:
  ConcurrencyOptions options_;
  double limit_;
  double usual_ = 0;
  int samples_ = 0;
};

}  // namespace ashlar::gateway
