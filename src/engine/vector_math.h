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

// What one pass over a row tells.
struct Peak {
  float value = 0;      // the largest; minus infinity of an empty row
  std::int32_t id = 0;  // the lowest that has it; -1 if nothing is above minus infinity
  bool finite = true;   // as all_finite(); if false, value and id say nothing
};
Peak peak(std::span<const float> row);

// The largest value; minus infinity of an empty row.
float largest(std::span<const float> row);

// out[i] = exp((row[i] - max) * scale), where row[i] <= max; returns the sum.
// Below exp(-87) the result is 0; the relative error is under 3e-7.
double exponentials(std::span<const float> row, float max, float scale, std::span<float> out);

// ln(sum(exp(row))), with `max` its largest value.
double log_sum_exp(std::span<const float> row, float max);

// Adds up.
double sum(std::span<const float> row);

// The `count` largest, in any order; of equal ones the lowest ids.
void keep_top(std::span<const float> row, int count, std::vector<Scored>& out);
// The same, best first.
void top_scores(std::span<const float> row, int count, std::vector<Scored>& out);

// Those that are at least `least` and above 0, by id.
void keep_from(std::span<const float> row, float least, std::vector<Scored>& out);

}  // namespace ashlar::engine
