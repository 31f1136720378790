// How one side of a rollout fares: counts of ends, and latencies in buckets.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>

#include "base/json.h"

namespace ashlar::gateway {

// Times in buckets of equal ratios (5 %), from 10 us to about 9 hours: a quantile is right to within a bucket, whatever
// the count. Not thread-safe.
class Latencies {
 public:
  void add(double seconds);
  std::int64_t count() const { return count_; }
  // Seconds below which this share of the samples lies, a bucket's upper bound; 0: no samples.
  double quantile(double share) const;
  // How many lie above so many seconds, surely: those of its own bucket do not count.
  std::int64_t above(double seconds) const;
  void add(const Latencies& more);

  Json json() const;            // [[bucket, count], ...]
  void read(const Json& kept);  // what json() gave; whatever else leaves it empty

 private:
  static constexpr int kBuckets = 448;
  static int bucket(double seconds);
  static double upper(int bucket);
  std::array<std::uint32_t, kBuckets> counts_{};
  std::int64_t count_ = 0;
};

// Means and their spread (Welford). Not thread-safe.
class Moments {
 public:
  void add(double value);
  std::int64_t count() const { return count_; }
  double mean() const { return mean_; }
  double variance() const { return count_ > 1 ? squares_ / static_cast<double>(count_ - 1) : 0; }

  Json json() const;
  void read(const Json& kept);

 private:
  std::int64_t count_ = 0;
  double mean_ = 0, squares_ = 0;
};

// One side, since a step began; scores since the rollout did. Not thread-safe.
struct Samples {
  std::int64_t requests = 0, errors = 0;
  Latencies first_token, between_tokens;
  Moments scores;

  // The counts and times of `more`, not its scores.
  void add(const Samples& more);
  double error_rate() const { return requests > 0 ? static_cast<double>(errors) / static_cast<double>(requests) : 0; }
  Json figures() const;  // for people and events
  Json json() const;     // to be kept
  static Samples of(const Json& kept);
};

}  // namespace ashlar::gateway
