// Weights that mean nothing but have the right size and spread: for measuring
// speed, and for tests. No quantizer runs: codes are drawn at random under
// scales that make the values' deviation what is asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/threads.h"
#include "kernels/types.h"

namespace ashlar::models {

// Fills whole blocks of `type` with values of mean 0 and about this deviation.
// The same seed gives the same bytes, whatever the pool.
void fill_random(kernels::Type type, double deviation, std::uint64_t seed, std::span<std::byte> out, ThreadPool& pool);

}  // namespace ashlar::models
