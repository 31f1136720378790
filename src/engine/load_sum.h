// What several generators do together.
#pragma once

#include <algorithm>

#include "engine/generator.h"

namespace ashlar::engine {

// Counts and speeds add up, and kv_used is the fullest's. `healthy` is left alone: whoever asks knows whether all must
// be.
inline void add(Generator::Load& sum, const Generator::Load& one) {
  sum.running += one.running;
  sum.waiting += one.waiting;
  sum.kv_used = std::max(sum.kv_used, one.kv_used);
  sum.prefill_tokens_per_second += one.prefill_tokens_per_second;
  sum.decode_tokens_per_second += one.decode_tokens_per_second;
}

}  // namespace ashlar::engine
