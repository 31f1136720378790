#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

using kernels::Type;

double half(const std::byte* at) {
  std::uint16_t h;
  std::memcpy(&h, at, 2);
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

int u8(std::byte b) { return static_cast<int>(b); }
int s8(std::byte b) { return static_cast<std::int8_t>(b); }

void read_q4_k(const std::byte* block, std::vector<double>& out) {
  const double d = half(block), dmin = half(block + 2);
  const std::byte *s = block + 4, *codes = block + 16;
  for (int j = 0; j < 8; ++j) {
    const int scale = j < 4 ? u8(s[j]) & 63 : (u8(s[j + 4]) & 15) | (u8(s[j - 4]) >> 6) << 4;
    const int min = j < 4 ? u8(s[j + 4]) & 63 : (u8(s[j + 4]) >> 4) | (u8(s[j]) >> 6) << 4;
    for (int l = 0; l < 32; ++l) {
      const int byte = u8(codes[j / 2 * 32 + l]);
      out.push_back(d * scale * (j % 2 == 0 ? byte & 15 : byte >> 4) - dmin * min);
    }
  }
}

void read_q6_k(const std::byte* block, std::vector<double>& out) {
  const std::byte *low = block, *high = block + 128, *scales = block + 192;
  const double d = half(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, within = i % 128, quarter = within / 32, l = within % 32;
    const int low_byte = u8(low[part * 64 + (quarter % 2) * 32 + l]);
    const int low_bits = quarter < 2 ? low_byte & 15 : low_byte >> 4;
    const int high_bits = (u8(high[part * 32 + l]) >> (2 * quarter)) & 3;
    out.push_back(d * s8(scales[i / 16]) * ((low_bits | high_bits << 4) - 32));
  }
}

}  // namespace

std::vector<double> plain_values(Type type, std::span<const std::byte> bytes) {
  std::vector<double> out;
  const auto size = static_cast<std::size_t>(kernels::type_info(type).bytes);
  for (std::size_t at = 0; at + size <= bytes.size(); at += size) {
    const std::byte* block = bytes.data() + at;
    switch (type) {
      case Type::f32: {
        float value;
        std::memcpy(&value, block, 4);
        out.push_back(static_cast<double>(value));
        break;
      }
      case Type::f16:
        out.push_back(half(block));
        break;
      case Type::bf16: {
        std::uint32_t bits = 0;
        std::memcpy(reinterpret_cast<std::byte*>(&bits) + 2, block, 2);
        out.push_back(static_cast<double>(std::bit_cast<float>(bits)));
        break;
      }
      case Type::q8_0:
        for (int i = 0; i < 32; ++i) out.push_back(half(block) * s8(block[2 + i]));
        break;
      case Type::mxfp4: {
        constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
        for (int i = 0; i < 32; ++i) {
          const int code = i < 16 ? u8(block[1 + i]) & 15 : u8(block[1 + i - 16]) >> 4;
          out.push_back(std::ldexp((code & 8) != 0 ? -kValues[code & 7] : kValues[code & 7], u8(block[0]) - 127));
        }
        break;
      }
      case Type::q4_0:
        for (int i = 0; i < 32; ++i)
          out.push_back(half(block) * ((i < 16 ? u8(block[2 + i]) & 15 : u8(block[2 + i - 16]) >> 4) - 8));
        break;
      case Type::q4_k:
        read_q4_k(block, out);
        break;
      case Type::q6_k:
        read_q6_k(block, out);
        break;
      default:
        ADD_FAILURE() << "no plain reading of this type";
    }
  }
  return out;
}

}  // namespace ashlar::models
