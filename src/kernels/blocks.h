// The published block formats of GGUF: reading and writing rows of any type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/table.h"
#include "kernels/types.h"

namespace ashlar::kernels {

// n elements, a multiple of the type's block, to f32. `row` needs no alignment. Pure; any thread.
void dequantize_row(Type type, const std::byte* row, float* out, std::int64_t n);

// n elements, whole blocks, to `type`. Scales (and mins) are those of least weighted error among many tried, and codes
// the nearest to x then: the searches of llama.cpp's quantizers, whose results these are. `importance` [n], or null:
// how much the square of each column's error counts; then x is a whole row, for errors are weighed by its mean
// square too. Not finite input gives a useless row, never a crash.
void quantize_row(Type type, const float* x, std::byte* out, std::int64_t n, const float* importance = nullptr);

// A quantized block taken apart: value = scale * (code - offset) + min, with
// scale = d * scales[h] and min = dmin * mins[h], h counting sub-blocks. Codes of IQ4 are not yet looked up.
struct Parts {
  std::uint16_t d;         // f16
  std::uint16_t dmin;      // f16: the min of Q4_1 and Q5_1, or the factor of the mins of K-quants
  std::int8_t scales[16];  // per sub-block
  std::uint8_t mins[16];
  std::uint8_t codes[256];
  float wide;        // instead of d: 22 significant bits of it
  std::int8_t zero;  // less the offset of the codes; min = -d * zero
};

// The blocks of the types from other checkpoints, 64 elements each; nibbles have elements 0..31 low and 32..63 high:
//
//   U4Z      f16 d | u16 z | nibbles[32]   d * (c - z), z <= 16
//   U8Z      f16 d | u16 z | u8 codes[64]  d * (c - z), z <= 255
//   I8       f32 d | int8 codes[64]        d * c
//   F8_E4M3  f32 d | codes[64]             d * the 8-bit float c; F8_E5M2 likewise
//   NF4      f32 d | nibbles[32]           d * kNf4[c]
//
// Products take 8-bit floats as int8 in 127ths of a block's greatest: their own steps are so much wider that this
// adds a twentieth to the variance of their rounding. They take NF4's values as kNf4Table has them.
inline constexpr float kNf4[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};

// One block of a quantized type, as products take it. Fills what the type has. MXFP4's scale, a power of two, becomes
// the nearest that an f16 can be: those from 2^-24 to 2^15 stay what they are.
void take_apart(Type type, const std::byte* block, Parts& parts);
// The inverse. `block` has the type's bytes.
void put_together(Type type, const Parts& parts, std::byte* block);

// What quantize_row() makes of a block of 64.
void quantize_64(Type type, const float* x, std::byte* block);

// What quantize_row() makes of `count` blocks side by side. `importance` as there; `mean_square` of the row then.
inline constexpr int kMostBlocks = 16;
void choose_parts(Type type, const float* x, int count, const float* importance, float mean_square, Parts* parts);

// Conversions that round to nearest even; f16 overflow gives infinity.
float f16_to_f32(std::uint16_t h);
std::uint16_t f32_to_f16(float f);
float bf16_to_f32(std::uint16_t b);
std::uint16_t f32_to_bf16(float f);

Format format_of(Type type);

}  // namespace ashlar::kernels
