#include "kernels/float8.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/blocks.h"

namespace ashlar::kernels {
namespace {

constexpr int kE4M3Bias = 7;
constexpr float kMostE4M3 = 448, kMostE5M2 = 57344;

}  // namespace

float f8_e4m3_to_f32(std::uint8_t f) {
  const std::uint32_t sign = static_cast<std::uint32_t>(f & 0x80) << 24;
  const std::uint32_t exponent = f >> 3 & 15, fraction = f & 7;
  if ((f & 0x7f) == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 127 - kE4M3Bias) << 23 | fraction << 20);
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(fraction) * 0x1p-9f));
}

float f8_e5m2_to_f32(std::uint8_t f) { return f16_to_f32(static_cast<std::uint16_t>(f << 8)); }

std::uint8_t f32_to_f8_e4m3(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<std::uint8_t>(bits >> 24 & 0x80);
  if (magnitude > 0x7f800000) return static_cast<std::uint8_t>(sign | 0x7f);
  const float size = std::min(std::bit_cast<float>(magnitude), kMostE4M3);
  if (size < 0x1p-6f)  // units of 2^-9; eight of them are the least with an exponent
    return static_cast<std::uint8_t>(sign | static_cast<std::uint8_t>(std::nearbyint(size * 0x1p9f)));
  const std::uint32_t whole = std::bit_cast<std::uint32_t>(size);
  const std::uint32_t rounded = (whole + 0x7ffff + (whole >> 20 & 1)) >> 20;
  return static_cast<std::uint8_t>(sign | (rounded - ((127 - kE4M3Bias) << 3)));
}

std::uint8_t f32_to_f8_e5m2(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<std::uint8_t>(bits >> 24 & 0x80);
  if (magnitude > 0x7f800000) return static_cast<std::uint8_t>(sign | 0x7f);
  const float size = std::min(std::bit_cast<float>(magnitude), kMostE5M2);
  if (size < 0x1p-14f)
    return static_cast<std::uint8_t>(sign | static_cast<std::uint8_t>(std::nearbyint(size * 0x1p16f)));
  const std::uint32_t whole = std::bit_cast<std::uint32_t>(size);
  const std::uint32_t rounded = (whole + 0xfffff + (whole >> 21 & 1)) >> 21;
  return static_cast<std::uint8_t>(sign | (rounded - (112u << 2)));
}

}  // namespace ashlar::kernels
