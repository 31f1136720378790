#include "models/quantizers/layer_errors.h"

#include <algorithm>
#include <cmath>

#include "models/quantizers/layer_walk.h"

namespace ashlar::models {
namespace {

// Rows of `width`: before a layer, after it, and after the other one.
double relative_error(std::span<const float> before, std::span<const float> after, std::span<const float> other,
                      std::size_t width) {
  double sum = 0;
  for (std::size_t at = 0; at < before.size(); at += width) {
    double added = 1e-30, off = 0;
    for (std::size_t i = at; i < at + width; ++i) {
      added += std::pow(double{after[i]} - double{before[i]}, 2);
      off += std::pow(double{after[i]} - double{other[i]}, 2);
    }
    sum += off / added;
  }
  return std::sqrt(sum * static_cast<double>(width) / static_cast<double>(before.size()));
}

}  // namespace

Result<std::vector<double>> layer_errors(const LoadedModel& original, const LoadedModel& changed,
                                         std::span<const std::int32_t> tokens, int window, ThreadPool& pool,
                                         const ErrorWatch& watch) {
  const auto one = TRY(LayerWalk::create(original, tokens, window, pool));
  const auto two = TRY(LayerWalk::create(changed, tokens, window, pool));
  const auto width = static_cast<std::size_t>(original.shape.width);
  std::vector<double> out;
  for (int layer = 0; layer < one->layers(); ++layer) {
    const auto look = [&] { return watch(static_cast<double>(layer) / one->layers()); };
    TRY(one->load(layer));
    TRY(two->load(layer));
    const std::vector<float> before(one->stream().begin(), one->stream().end());
    std::ranges::copy(before, two->stream().begin());
    TRY(one->pass(true, {}, look));
    TRY(two->pass(true, {}, look));
    out.push_back(relative_error(before, one->stream(), two->stream(), width));
  }
  return out;
}

}  // namespace ashlar::models
