#include "kernels/blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/result.h"
#include "kernels/float8.h"

namespace ashlar::kernels {
namespace {

std::uint16_t read16(const std::uint8_t* p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); }

// Elements 0..15 low, 16..31 high.
void nibbles(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[i + 16] = qs[i] >> 4;
  }
}

// Eight 6-bit scales and mins in 12 bytes: the first four in the low 6 bits of bytes 0..7; the others
// have their low nibbles in bytes 8..11 and their high 2 bits atop bytes 0..7.
void scales_of_k4(const std::uint8_t* s, Parts& parts) {
  for (int i = 0; i < 4; ++i) {
    parts.scales[i] = static_cast<std::int8_t>(s[i] & 63);
    parts.mins[i] = s[i + 4] & 63;
    parts.scales[i + 4] = static_cast<std::int8_t>((s[i + 8] & 15) | (s[i] >> 6) << 4);
    parts.mins[i + 4] = static_cast<std::uint8_t>(s[i + 8] >> 4 | (s[i + 4] >> 6) << 4);
  }
}

// 32 bytes for each 64 elements: the first 32 low, the next 32 high.
void nibbles_by_64(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int chunk = 0; chunk < 4; ++chunk)
    for (int i = 0; i < 32; ++i) {
      codes[64 * chunk + i] = qs[32 * chunk + i] & 15;
      codes[64 * chunk + 32 + i] = qs[32 * chunk + i] >> 4;
    }
}

void take_q2_k(const std::uint8_t* p, Parts& parts) {  // scales[16] qs[64] d dmin
  parts.d = read16(p + 80);
  parts.dmin = read16(p + 82);
  for (int i = 0; i < 16; ++i) {
    parts.scales[i] = p[i] & 15;
    parts.mins[i] = p[i] >> 4;
  }
  for (int quarter = 0; quarter < 8; ++quarter)
    for (int i = 0; i < 32; ++i)
      parts.codes[32 * quarter + i] = p[16 + 32 * (quarter / 4) + i] >> 2 * (quarter % 4) & 3;
}

void take_q3_k(const std::uint8_t* p, Parts& parts) {  // hmask[32] qs[64] scales[12] d
  parts.d = read16(p + 108);
  const std::uint8_t* s = p + 96;
  for (int i = 0; i < 16; ++i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const int high = s[8 + i % 4] >> 2 * (i / 4) & 3;
    parts.scales[i] = static_cast<std::int8_t>((low | high << 4) - 32);
  }
  for (int quarter = 0; quarter < 8; ++quarter)
    for (int i = 0; i < 32; ++i) {
      const int low = p[32 + 32 * (quarter / 4) + i] >> 2 * (quarter % 4) & 3;
      const int high = p[i] >> quarter & 1;
      parts.codes[32 * quarter + i] = static_cast<std::uint8_t>(low | high << 2);
    }
}

void take_q6_k(const std::uint8_t* p, Parts& parts) {  // ql[128] qh[64] scales[16] d
  parts.d = read16(p + 208);
  std::memcpy(parts.scales, p + 192, 16);
  for (int half = 0; half < 2; ++half)
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int i = 0; i < 32; ++i) {
        const int low = p[64 * half + 32 * (quarter % 2) + i] >> 4 * (quarter / 2) & 15;
        const int high = p[128 + 32 * half + i] >> 2 * quarter & 3;
        parts.codes[128 * half + 32 * quarter + i] = static_cast<std::uint8_t>(low | high << 4);
      }
}

void take_iq4_xs(const std::uint8_t* p, Parts& parts) {  // d scales_h scales_l[4] qs[128]
  parts.d = read16(p);
  const int high = read16(p + 2);
  for (int i = 0; i < 8; ++i) {
    const int scale = (p[4 + i / 2] >> 4 * (i % 2) & 15) | (high >> 2 * i & 3) << 4;
    parts.scales[i] = static_cast<std::int8_t>(scale - 32);
    nibbles(p + 8 + 16 * i, parts.codes + 32 * i);
  }
}

void take_5_bits(const std::uint8_t* high, const std::uint8_t* qs, Parts& parts) {  // Q5_0, Q5_1
  nibbles(qs, parts.codes);
  for (int g = 0; g < 8; ++g) {
    const std::uint32_t bits = high[g / 2] >> 4 * (g % 2) & 15;
    std::uint32_t group;  // four codes; the product spreads four bits over four bytes
    std::memcpy(&group, parts.codes + 4 * g, 4);
    group |= (bits * 0x00204081u & 0x01010101u) << 4;
    std::memcpy(parts.codes + 4 * g, &group, 4);
  }
}

void nibbles_of_64(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int i = 0; i < 32; ++i) {
    codes[i] = qs[i] & 15;
    codes[32 + i] = qs[i] >> 4;
  }
}

float read32(const std::uint8_t* p) {
  float value;
  std::memcpy(&value, p, 4);
  return value;
}

// To 22 significant bits. What a file can make of it is not a number at worst.
float short_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7f800000) == 0x7f800000) return value;
  return std::bit_cast<float>((bits + 1 + (bits >> 2 & 1)) & ~3u);
}

std::int8_t less(int zero, int offset) { return static_cast<std::int8_t>(std::clamp(zero - offset, -128, 127)); }

float f8_to_f32(Type type, std::uint8_t code) {
  return type == Type::f8_e4m3 ? f8_e4m3_to_f32(code) : f8_e5m2_to_f32(code);
}

// As int8 in 127ths of the greatest.
void take_f8(Type type, const std::uint8_t* p, Parts& parts) {
  float values[64], most = 0;
  for (int i = 0; i < 64; ++i) {
    values[i] = f8_to_f32(type, p[4 + i]);
    most = std::max(most, std::abs(values[i]));
  }
  parts.wide = short_float(read32(p) * (most / 127));
  const float inverse = most > 0 && std::isfinite(most) ? 127 / most : 0;
  for (int i = 0; i < 64; ++i) {
    const float code = values[i] * inverse;
    parts.codes[i] = std::abs(code) <= 127.5f ? static_cast<std::uint8_t>(std::lrint(code) + 128) : 128;
  }
}

// Of the types whose products round: d and codes as the file has them.
float exact_value(Type type, const std::uint8_t* block, int i) {
  const float d = read32(block);
  if (type == Type::nf4) return d * kNf4[i < 32 ? block[4 + i] & 15 : block[4 + i - 32] >> 4];
  if (type == Type::i8) return d * static_cast<float>(static_cast<std::int8_t>(block[4 + i]));
  return d * f8_to_f32(type, block[4 + i]);
}

}  // namespace

const Layout kLayouts[kFormats] = {
    {},                                               // F32
    {},                                               // F16
    {},                                               // BF16
    {false, 1, 1, 0, 8, 128},                         // Q8_0
    {false, 1, 1, 0, 4, 8},                           // Q4_0
    {true, 1, 1, 0, 4, 0},                            // Q4_1
    {false, 1, 1, 0, 5, 16},                          // Q5_0
    {true, 1, 1, 0, 5, 0},                            // Q5_1
    {true, 8, 2, 2, 2, 0},                            // Q2_K
    {false, 8, 2, 2, 3, 4},                           // Q3_K
    {true, 8, 1, 2, 4, 0},                            // Q4_K
    {true, 8, 1, 2, 5, 0},                            // Q5_K
    {false, 8, 2, 2, 6, 32},                          // Q6_K
    {false, 1, 1, 0, 4, 0, false, false, kIq4Table},  // IQ4_NL
    {false, 8, 1, 1, 4, 0, false, false, kIq4Table},  // IQ4_XS
    {false, 2, 1, 0, 4, 8, false, true},              // U4Z
    {false, 2, 1, 0, 8, 128, false, true},            // U8Z
    {false, 2, 1, 0, 8, 128, true},                   // I8
    {false, 2, 1, 0, 4, 0, true, false, kNf4Table},   // NF4
    {false, 1, 1, 0, 4, 0, false, false, kFp4Table},  // MXFP4
};

Format format_of(Type type) {
  switch (type) {
    case Type::f32:
      return kF32;
    case Type::f16:
      return kF16;
    case Type::bf16:
      return kBF16;
    case Type::q8_0:
      return kQ8_0;
    case Type::q4_0:
      return kQ4_0;
    case Type::q4_1:
      return kQ4_1;
    case Type::q5_0:
      return kQ5_0;
    case Type::q5_1:
      return kQ5_1;
    case Type::q2_k:
      return kQ2_K;
    case Type::q3_k:
      return kQ3_K;
    case Type::q4_k:
      return kQ4_K;
    case Type::q5_k:
      return kQ5_K;
    case Type::q6_k:
      return kQ6_K;
    case Type::iq4_nl:
      return kIQ4_NL;
    case Type::iq4_xs:
      return kIQ4_XS;
    case Type::u4z:
      return kU4Z;
    case Type::u8z:
      return kU8Z;
    case Type::i8:
    case Type::f8_e4m3:
    case Type::f8_e5m2:
      return kI8;
    case Type::nf4:
      return kNF4;
    case Type::mxfp4:
      return kMXFP4;
  }
  CHECK(false, "a weight type without a format");
}

void take_apart(Type type, const std::byte* block, Parts& parts) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(block);
  parts.d = read16(p);
  switch (type) {
    case Type::q4_0:
    case Type::iq4_nl:
      return nibbles(p + 2, parts.codes);
    case Type::q4_1:
      parts.dmin = read16(p + 2);
      return nibbles(p + 4, parts.codes);
    case Type::q5_0:
      return take_5_bits(p + 2, p + 6, parts);
    case Type::q5_1:
      parts.dmin = read16(p + 2);
      return take_5_bits(p + 4, p + 8, parts);
    case Type::q8_0:
      for (int i = 0; i < 32; ++i) parts.codes[i] = p[2 + i] ^ 128;
      return;
    case Type::q2_k:
      return take_q2_k(p, parts);
    case Type::q3_k:
      return take_q3_k(p, parts);
    case Type::q4_k:  // d dmin scales[12] qs[128]
      parts.dmin = read16(p + 2);
      scales_of_k4(p + 4, parts);
      return nibbles_by_64(p + 16, parts.codes);
    case Type::q5_k:  // d dmin scales[12] qh[32] qs[128]
      parts.dmin = read16(p + 2);
      scales_of_k4(p + 4, parts);
      nibbles_by_64(p + 48, parts.codes);
      for (int sub = 0; sub < 8; ++sub)
        for (int i = 0; i < 32; ++i)
          parts.codes[32 * sub + i] |= static_cast<std::uint8_t>((p[16 + i] >> sub & 1) << 4);
      return;
    case Type::q6_k:
      return take_q6_k(p, parts);
    case Type::iq4_xs:
      return take_iq4_xs(p, parts);
    case Type::mxfp4:  // e qs[16]; codes stand for doubled values, so the scale is half of 2^(e - 127)
      parts.d = f32_to_f16(std::ldexp(1.0f, std::clamp(p[0] - 128, -25, 15)));
      return nibbles(p + 1, parts.codes);
    case Type::u4z:
      parts.zero = less(read16(p + 2), 8);
      return nibbles_of_64(p + 4, parts.codes);
    case Type::u8z:
      parts.zero = less(read16(p + 2), 128);
      std::memcpy(parts.codes, p + 4, 64);
      return;
    case Type::i8:
      parts.wide = short_float(read32(p));
      for (int i = 0; i < 64; ++i) parts.codes[i] = p[4 + i] ^ 128;
      return;
    case Type::f8_e4m3:
    case Type::f8_e5m2:
      return take_f8(type, p, parts);
    case Type::nf4:
      parts.wide = short_float(read32(p) / kNf4Reach);
      return nibbles_of_64(p + 4, parts.codes);
    default:
      CHECK(false, "not a quantized type");
  }
}

void dequantize_row(Type type, const std::byte* row, float* out, std::int64_t n) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(row);
  if (type == Type::f32) {
    std::memcpy(out, row, static_cast<std::size_t>(n) * 4);
    return;
  }
  if (type == Type::f16 || type == Type::bf16) {
    for (std::int64_t i = 0; i < n; ++i)
      out[i] = type == Type::f16 ? f16_to_f32(read16(p + 2 * i)) : bf16_to_f32(read16(p + 2 * i));
    return;
  }
  const TypeInfo& info = type_info(type);
  const Layout& layout = kLayouts[format_of(type)];
  if (layout.wide) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = exact_value(type, p + i / 64 * info.bytes, static_cast<int>(i % 64));
    return;
  }
  Parts parts;
  for (std::int64_t first = 0; first < n; first += info.block, row += info.bytes) {
    take_apart(type, row, parts);
    const int zero = layout.zero ? parts.zero : 0;
    const float d = f16_to_f32(parts.d);
    const float dmin = layout.min ? f16_to_f32(parts.dmin) : 0;
    const int sub = kBlock / layout.subs;
    for (int i = 0; i < info.block; ++i) {
      const int value = layout.table ? layout.table[parts.codes[i]] - 128 : parts.codes[i] - layout.offset - zero;
      const float scale = layout.scale_bytes == 0 ? d : d * static_cast<float>(parts.scales[i / sub]);
      const float product = scale * static_cast<float>(value);
      float min = 0;
      if (layout.min) min = layout.blocks == 1 ? dmin : -(dmin * static_cast<float>(parts.mins[i / sub]));
      out[first + i] = product + min;
    }
  }
}

float f16_to_f32(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16;
  const std::uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -tiny : tiny;
}

std::uint16_t f32_to_f16(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);  // rounds beyond 65504
  if (magnitude < 0x38800000) {  // below 2^-14: units of 2^-24, rounded by the addition
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000));
  }
  const std::uint32_t rounded = magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1);
  return static_cast<std::uint16_t>(sign | rounded >> 13);
}

float bf16_to_f32(std::uint16_t b) { return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16); }

std::uint16_t f32_to_bf16(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>(bits >> 16 | 64);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace ashlar::kernels
