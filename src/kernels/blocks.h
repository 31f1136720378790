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
};

// One block of a quantized type. Fills what the type has.
void take_apart(Type type, const std::byte* block, Parts& parts);
// The inverse. `block` has the type's bytes.
void put_together(Type type, const Parts& parts, std::byte* block);

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
