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

// n elements to `type`, rounding to nearest with a scale for each block chosen from
// its range (k-quants: of each sub-block). Not finite input gives a useless row, never a crash.
void quantize_row(Type type, const float* x, std::byte* out, std::int64_t n);

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

// Conversions that round to nearest even; f16 overflow gives infinity.
float f16_to_f32(std::uint16_t h);
std::uint16_t f32_to_f16(float f);
float bf16_to_f32(std::uint16_t b);
std::uint16_t f32_to_bf16(float f);

Format format_of(Type type);

}  // namespace ashlar::kernels
