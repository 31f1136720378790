// The two forms of 8-bit floats (Micikevicius et al. 2022, arXiv:2209.05433):
//
//   E4M3: sign | 4 bits of exponent, bias 7  | 3 of fraction; no infinity, 0x7f is not a number, the greatest is 448
//   E5M2: sign | 5 bits of exponent, bias 15 | 2 of fraction; an f16 cut short, the greatest is 57344
#pragma once

#include <cstdint>

namespace ashlar::kernels {

float f8_e4m3_to_f32(std::uint8_t f);
float f8_e5m2_to_f32(std::uint8_t f);

// To the nearest, ties to even; beyond the greatest, infinity included, to the greatest.
std::uint8_t f32_to_f8_e4m3(float f);
std::uint8_t f32_to_f8_e5m2(float f);

// One of those that are no finite number.
inline bool f8_e4m3_is_finite(std::uint8_t f) { return (f & 0x7f) != 0x7f; }
inline bool f8_e5m2_is_finite(std::uint8_t f) { return (f & 0x7f) < 0x7c; }

}  // namespace ashlar::kernels
