// Small steps between floats and codes that all quantizers take.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/table.h"

namespace ashlar::kernels {

inline std::uint8_t byte(int value) { return static_cast<std::uint8_t>(value); }

// To the nearest, ties to even; not-a-number becomes `low`. Adding 1.5 * 2^23 leaves the whole number in the low bits.
inline int nearest(float value, int low, int high) {
  value = value > static_cast<float>(low) ? value : static_cast<float>(low);
  value = value < static_cast<float>(high) ? value : static_cast<float>(high);
  return std::bit_cast<std::int32_t>(value + kLiftValue) - kLift;
}

inline float reciprocal(float d) { return d != 0 ? 1 / d : 0; }

}  // namespace ashlar::kernels
