// How fast a deployment is.
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

}  // namespace ashlar::gateway
