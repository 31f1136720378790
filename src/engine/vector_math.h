// What sampling does to whole rows of logits, in loops that the compiler turns
// into vector code. Sums go in an order fixed by the row's length alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ashlar::engine {

struct Scored {
  float score = 0;
  std::int32_t id = 0;
};

// False: a NaN or an infinity is among them.
bool all_finite(std::span<const float> row);

// The largest value; minus infinity of an empty row.
float largest(std::span<const float> row);

// The lowest id that has the largest value.
std::int32_t argmax(std::span<const float> row);

// out[i] = exp((row[i] - max) * scale), where row[i] <= max; returns the sum.
// Below exp(-87) the result is 0; the relative error is under 3e-7.
double exponentials(std::span<const float> row, float max, float scale, std::span<float> out);

// ln(sum(exp(row))), with `max` its largest value.
double log_sum_exp(std::span<const float> row, float max);

// The `count` largest, best first; of equal ones the lowest ids.
void top_scores(std::span<const float> row, int count, std::vector<Scored>& out);

}  // namespace ashlar::engine
