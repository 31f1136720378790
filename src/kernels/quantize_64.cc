// Rounding to the weight types of other checkpoints, whose blocks have 64 elements.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/codes.h"
#include "kernels/float8.h"

namespace ashlar::kernels {
namespace {

void put_codes(Type type, const std::uint8_t* codes, std::uint8_t* out) {
  if (type != Type::u4z && type != Type::nf4) {
    std::memcpy(out, codes, 64);
    return;
  }
  for (int i = 0; i < 32; ++i) out[i] = byte(codes[i] | codes[32 + i] << 4);
}

// With an f16 scale and a zero.
void quantize_zero(Type type, const float* x, std::uint8_t* p) {
  const int top = type == Type::u4z ? 15 : 255;
  const auto [low, high] = std::minmax_element(x, x + 64);
  const float least = std::min(*low, 0.0f), most = std::max(*high, 0.0f);
  const std::uint16_t half = f32_to_f16((most - least) / static_cast<float>(top));
  const float inverse = reciprocal(f16_to_f32(half));
  const auto zero = static_cast<std::uint16_t>(nearest(-least * inverse, 0, top));
  std::uint8_t codes[64];
  for (int i = 0; i < 64; ++i) codes[i] = byte(nearest(x[i] * inverse + static_cast<float>(zero), 0, top));
  std::memcpy(p, &half, 2);
  std::memcpy(p + 2, &zero, 2);
  put_codes(type, codes, p + 4);
}

int nearest_nf4(float value) {
  return static_cast<int>(std::ranges::min_element(kNf4, {}, [&](float v) { return std::abs(v - value); }) - kNf4);
}

// With an f32 scale, from the greatest magnitude.
void quantize_wide(Type type, const float* x, std::uint8_t* p) {
  float most = 0;
  for (int i = 0; i < 64; ++i) most = std::max(most, std::abs(x[i]));
  const float reach = type == Type::i8 ? 127 : type == Type::nf4 ? 1 : type == Type::f8_e4m3 ? 448 : 57344;
  const float d = most / reach, inverse = reciprocal(d);
  std::memcpy(p, &d, 4);
  std::uint8_t codes[64];
  for (int i = 0; i < 64; ++i) {
    const float value = x[i] * inverse;
    if (type == Type::i8)
      codes[i] = byte(nearest(value, -127, 127));
    else if (type == Type::nf4)
      codes[i] = byte(nearest_nf4(value));
    else
      codes[i] = type == Type::f8_e4m3 ? f32_to_f8_e4m3(value) : f32_to_f8_e5m2(value);
  }
  put_codes(type, codes, p + 4);
}

}  // namespace

void quantize_64(Type type, const float* x, std::byte* block) {
  auto* p = reinterpret_cast<std::uint8_t*>(block);
  kLayouts[format_of(type)].wide ? quantize_wide(type, x, p) : quantize_zero(type, x, p);
}

}  // namespace ashlar::kernels
