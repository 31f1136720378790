// How a model stretches its rotary position embedding over a longer context.
// RoPE: arXiv:2104.09864; YaRN: arXiv:2309.00071.
#pragma once

#include <span>
#include <vector>

#include "kernels/elementwise.h"

namespace ashlar::models {

struct RopeConfig {
  enum class Scaling { none, linear, yarn };

  double base = 10000;
  int dims = 0;  // of a head's elements, the first ones, that turn
  kernels::RopeLayout layout = kernels::RopeLayout::adjacent;
  Scaling scaling = Scaling::none;
  double factor = 1;            // how many times longer than trained the context is
  double original_context = 0;  // positions before scaling (YaRN, LongRoPE)
  double attention_factor = 1;  // multiplies the lengths of q and k that turned (YaRN, LongRoPE)
  double extrapolation = 1;     // YaRN: 0 is linear scaling
  double beta_fast = 32, beta_slow = 1;
  bool whole_pairs = true;  // YaRN's ramp begins and ends at whole pairs, outwards
};

// `file_factors`: what divides each pair's frequency, [dims / 2], or empty
// (Llama 3's rope_freqs, LongRoPE's).
kernels::Rope make_rope(const RopeConfig& config, std::span<const float> file_factors);

}  // namespace ashlar::models
