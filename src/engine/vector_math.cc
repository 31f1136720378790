#include "engine/vector_math.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

namespace ashlar::engine {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kStretch = 1024;   // summed in float; stretches are added in double
constexpr std::size_t kGlance = 64;      // passed over at once where nothing in it is wanted
constexpr std::size_t kLargeHeap = 512;  // more are found by partitioning

bool better(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

Scored scored(std::span<const float> row, std::size_t id) { return {row[id], static_cast<std::int32_t>(id)}; }

// exp(x) for x <= 0: 2^n * exp(r), |r| <= ln(2)/2, by Taylor's polynomial of degree 7.
inline float exp_below_zero(float x) {
  constexpr float kLowest = -87.0F;
  const float bounded = x < kLowest ? kLowest : x;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number
  const float n = (bounded * 1.44269504F + kRound) - kRound;
  const float r = (bounded - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const float power = std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);
  return x < kLowest ? 0.0F : p * power;
}

// The sum of f(i) over [0, count), f vectorizable.
template <class F>
double sum_of(std::size_t count, F&& f) {
  double total = 0;
  std::size_t i = 0;
  while (i + kLanes <= count) {
    std::array<float, kLanes> lanes{};
    const std::size_t end = std::min(count, i + kStretch);
    for (; i + kLanes <= end; i += kLanes)
      for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += f(i + lane);
    for (const float lane : lanes) total += lane;
  }
  for (; i < count; ++i) total += f(i);
  return total;
}

}  // namespace

bool all_finite(std::span<const float> row) {
  std::uint32_t bad = 0;
  for (const float value : row)
    bad |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(value) & 0x7f800000U) == 0x7f800000U);
  return bad == 0;
}

float largest(std::span<const float> row) {
  std::array<float, kLanes> lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = row[i + lane] > lanes[lane] ? row[i + lane] : lanes[lane];
  for (; i < row.size(); ++i) lanes[0] = std::max(lanes[0], row[i]);
  return *std::ranges::max_element(lanes);
}

Peak peak(std::span<const float> row) {
  Peak peak{.value = -std::numeric_limits<float>::infinity(), .id = -1};
  std::size_t best = row.size();  // begins the stretch that has it
  for (std::size_t i = 0; i < row.size(); i += kStretch) {
    const auto stretch = row.subspan(i, std::min(kStretch, row.size() - i));  // read once from memory, twice from L1
    peak.finite &= all_finite(stretch);
    if (const float most = largest(stretch); most > peak.value) peak.value = most, best = i;
  }
  if (best < row.size())
    peak.id = static_cast<std::int32_t>(
        std::find(row.begin() + static_cast<std::ptrdiff_t>(best), row.end(), peak.value) - row.begin());
  return peak;
}

double exponentials(std::span<const float> row, float max, float scale, std::span<float> out) {
  return sum_of(row.size(), [&](std::size_t i) { return out[i] = exp_below_zero((row[i] - max) * scale); });
}

double log_sum_exp(std::span<const float> row, float max) {
  return max + std::log(sum_of(row.size(), [&](std::size_t i) { return exp_below_zero(row[i] - max); }));
}

double sum(std::span<const float> row) {
  return sum_of(row.size(), [&](std::size_t i) { return row[i]; });
}

void keep_top(std::span<const float> row, int count, std::vector<Scored>& out) {
  out.clear();
  const auto wanted = std::min(static_cast<std::size_t>(std::max(count, 0)), row.size());
  if (wanted == 0) return;
  const bool partition = wanted > kLargeHeap;
  for (std::size_t id = 0; id < (partition ? row.size() : wanted); ++id) out.push_back(scored(row, id));
  if (partition) {
    std::ranges::nth_element(out, out.begin() + static_cast<std::ptrdiff_t>(wanted - 1), better);
    out.resize(wanted);
    return;
  }
  // A heap with the worst of the best on top; ids rise, so an equal score never gets in.
  std::ranges::make_heap(out, better);
  for (std::size_t begin = wanted; begin < row.size(); begin += kGlance) {
    const std::size_t end = std::min(row.size(), begin + kGlance);
    if (largest(row.subspan(begin, end - begin)) <= out.front().score) continue;
    for (std::size_t id = begin; id < end; ++id) {
      if (row[id] <= out.front().score) continue;
      std::ranges::pop_heap(out, better);
      out.back() = scored(row, id);
      std::ranges::push_heap(out, better);
    }
  }
}

void top_scores(std::span<const float> row, int count, std::vector<Scored>& out) {
  keep_top(row, count, out);
  std::ranges::sort(out, better);
}

void keep_from(std::span<const float> row, float least, std::vector<Scored>& out) {
  out.clear();
  for (std::size_t begin = 0; begin < row.size(); begin += kGlance) {
    const std::size_t end = std::min(row.size(), begin + kGlance);
    if (largest(row.subspan(begin, end - begin)) < least) continue;
    for (std::size_t id = begin; id < end; ++id)
      if (row[id] >= least && row[id] > 0) out.push_back(scored(row, id));
  }
}

}  // namespace ashlar::engine
