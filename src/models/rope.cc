#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "base/result.h"

namespace ashlar::models {
namespace {

// The pair that turns `rotations` times within the original context.
double pair_with_rotations(const RopeConfig& c, double rotations) {
  return c.dims * std::log(c.original_context / (rotations * 2 * std::numbers::pi)) / (2 * std::log(c.base));
}

// What divides each pair's frequency. YaRN: fast pairs keep theirs, slow ones
// are divided by `factor`, and a ramp joins them.
std::vector<double> stretch(const RopeConfig& c) {
  std::vector<double> divisors(static_cast<std::size_t>(c.dims / 2), 1.0);
  if (c.scaling == RopeConfig::Scaling::linear) std::ranges::fill(divisors, c.factor);
  if (c.scaling != RopeConfig::Scaling::yarn) return divisors;
  const double fast = pair_with_rotations(c, c.beta_fast), slow = pair_with_rotations(c, c.beta_slow);
  const double low = std::max(0.0, c.whole_pairs ? std::floor(fast) : fast);
  const double high = std::min(c.dims - 1.0, c.whole_pairs ? std::ceil(slow) : slow);
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    const double along = std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
    const double keep = (1 - along) * c.extrapolation;
    divisors[i] = 1 / (keep + (1 - keep) / c.factor);
  }
  return divisors;
}

}  // namespace

kernels::Rope make_rope(const RopeConfig& c, std::span<const float> file_factors) {
  const std::vector<double> divisors = stretch(c);
  CHECK(file_factors.empty() || file_factors.size() == divisors.size(), "one factor for each pair");
  std::vector<float> factors(divisors.size());
  for (std::size_t i = 0; i < factors.size(); ++i)
    factors[i] = static_cast<float>(divisors[i] * (file_factors.empty() ? 1.0 : static_cast<double>(file_factors[i])));
  double magnitude = c.attention_factor;
  if (c.scaling == RopeConfig::Scaling::yarn && c.extrapolation != 0) magnitude *= 1 + 0.1 * std::log(c.factor);
  return kernels::Rope(c.dims, c.base, c.layout, factors, static_cast<float>(magnitude));
}

}  // namespace ashlar::models
