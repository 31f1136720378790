// Simple quantizers: each block's scale from its range, codes to the nearest.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/result.h"
#include "kernels/blocks.h"
#include "kernels/float8.h"

namespace ashlar::kernels {
namespace {

void write16(std::uint8_t* p, std::uint16_t value) {
  p[0] = static_cast<std::uint8_t>(value);
  p[1] = static_cast<std::uint8_t>(value >> 8);
}

std::uint8_t byte(int value) { return static_cast<std::uint8_t>(value); }

void put_nibbles(const std::uint8_t* codes, std::uint8_t* qs) {
  for (int i = 0; i < 16; ++i) qs[i] = byte((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

void put_5_bits(const std::uint8_t* codes, std::uint8_t* high, std::uint8_t* qs) {
  put_nibbles(codes, qs);
  std::memset(high, 0, 4);
  for (int i = 0; i < 32; ++i) high[i / 8] |= byte((codes[i] >> 4) << i % 8);
}

void put_k4(const Parts& parts, std::uint8_t* s, std::uint8_t* qs) {
  for (int i = 0; i < 4; ++i) {
    s[i] = byte(parts.scales[i] | (parts.scales[i + 4] >> 4) << 6);
    s[i + 4] = byte(parts.mins[i] | (parts.mins[i + 4] >> 4) << 6);
    s[i + 8] = byte((parts.scales[i + 4] & 15) | (parts.mins[i + 4] & 15) << 4);
  }
  for (int i = 0; i < 128; ++i) {
    const std::uint8_t* c = parts.codes + 64 * (i / 32) + i % 32;
    qs[i] = byte((c[0] & 15) | (c[32] & 15) << 4);
  }
}

// The inverse of take_apart().
void put_together(Type type, const Parts& parts, std::uint8_t* p) {
  std::memset(p, 0, static_cast<std::size_t>(type_info(type).bytes));
  write16(p, parts.d);
  const std::uint8_t* codes = parts.codes;
  switch (type) {
    case Type::q4_0:
    case Type::iq4_nl:
      return put_nibbles(codes, p + 2);
    case Type::q4_1:
      write16(p + 2, parts.dmin);
      return put_nibbles(codes, p + 4);
    case Type::q5_0:
      return put_5_bits(codes, p + 2, p + 6);
    case Type::q5_1:
      write16(p + 2, parts.dmin);
      return put_5_bits(codes, p + 4, p + 8);
    case Type::q8_0:
      for (int i = 0; i < 32; ++i) p[2 + i] = codes[i] ^ 128;
      return;
    case Type::q4_k:
      write16(p + 2, parts.dmin);
      return put_k4(parts, p + 4, p + 16);
    case Type::q5_k:
      write16(p + 2, parts.dmin);
      put_k4(parts, p + 4, p + 48);
      for (int i = 0; i < 256; ++i) p[16 + i % 32] |= byte((codes[i] >> 4) << i / 32);
      return;
    case Type::q2_k:
      for (int i = 0; i < 16; ++i) p[i] = byte(parts.scales[i] | parts.mins[i] << 4);
      for (int i = 0; i < 256; ++i) p[16 + 32 * (i / 128) + i % 32] |= byte(codes[i] << 2 * (i / 32 % 4));
      write16(p + 80, parts.d);
      write16(p + 82, parts.dmin);
      return;
    case Type::q3_k:
      p[0] = p[1] = 0;
      for (int i = 0; i < 256; ++i) {
        p[32 + 32 * (i / 128) + i % 32] |= byte((codes[i] & 3) << 2 * (i / 32 % 4));
        p[i % 32] |= byte((codes[i] >> 2) << i / 32);
      }
      for (int i = 0; i < 16; ++i) {
        const int scale = parts.scales[i] + 32;
        p[96 + i % 8] |= byte((scale & 15) << 4 * (i / 8));
        p[96 + 8 + i % 4] |= byte((scale >> 4) << 2 * (i / 4));
      }
      return write16(p + 108, parts.d);
    case Type::q6_k:
      p[0] = p[1] = 0;
      for (int i = 0; i < 256; ++i) {
        const int half = i / 128, quarter = i / 32 % 4, l = i % 32;
        p[64 * half + 32 * (quarter % 2) + l] |= byte((codes[i] & 15) << 4 * (quarter / 2));
        p[128 + 32 * half + l] |= byte((codes[i] >> 4) << 2 * quarter);
      }
      std::memcpy(p + 192, parts.scales, 16);
      return write16(p + 208, parts.d);
    case Type::iq4_xs: {
      int high = 0;
      for (int i = 0; i < 8; ++i) {
        const int scale = parts.scales[i] + 32;
        p[4 + i / 2] |= byte((scale & 15) << 4 * (i % 2));
        high |= (scale >> 4) << 2 * i;
        put_nibbles(codes + 32 * i, p + 8 + 16 * i);
      }
      return write16(p + 2, static_cast<std::uint16_t>(high));
    }
    default:
      CHECK(false, "not a quantized type");
  }
}

int nearest(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;  // also not-a-number
  return value < static_cast<float>(high) ? static_cast<int>(std::nearbyint(value)) : high;
}

int nearest_iq4(float value) {
  int best = 0;
  for (int i = 1; i < 16; ++i)
    if (std::abs(value - static_cast<float>(kIq4Table[i] - 128)) <
        std::abs(value - static_cast<float>(kIq4Table[best] - 128)))
      best = i;
  return best;
}

float reciprocal(float d) { return d != 0 ? 1 / d : 0; }

// The element of greatest magnitude, with its sign: it takes the end of the code range that reaches further.
float extreme(const float* x, int n) {
  float found = 0;
  for (int i = 0; i < n; ++i)
    if (std::abs(x[i]) > std::abs(found)) found = x[i];
  return found;
}

struct Range {
  float scale, min;  // value = scale * code - min, min >= 0
};

Range range_of(const float* x, int n, int top) {
  float low = 0, high = 0;
  for (int i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  return {(high - low) / static_cast<float>(top), -low};
}

// Codes of x against a known scale and min.
void encode(Type type, const float* x, int n, float scale, float min, std::uint8_t* codes) {
  const Layout& layout = kLayouts[format_of(type)];
  const float inverse = reciprocal(scale);
  for (int i = 0; i < n; ++i) {
    const float value = (x[i] - min) * inverse;
    if (type == Type::iq4_nl || type == Type::iq4_xs)
      codes[i] = byte(nearest_iq4(value));
    else
      codes[i] = byte(nearest(value + static_cast<float>(layout.offset), 0, (1 << layout.bits) - 1));
  }
}

// One scale (and min) for 32 elements.
void quantize_small(Type type, const float* x, Parts& parts) {
  const Layout& layout = kLayouts[format_of(type)];
  if (layout.min) {
    const auto [low, high] = std::minmax_element(x, x + 32);
    parts.d = f32_to_f16((*high - *low) / static_cast<float>((1 << layout.bits) - 1));
    parts.dmin = f32_to_f16(*low);
    return encode(type, x, 32, f16_to_f32(parts.d), f16_to_f32(parts.dmin), parts.codes);
  }
  const float most = extreme(x, 32);
  const float reach = type == Type::q8_0 || type == Type::iq4_nl ? -127 : static_cast<float>(-layout.offset);
  // Codes of 8 bits reach as far on both sides, and a scale above 0 is what other writers give them.
  parts.d = f32_to_f16(type == Type::q8_0 ? std::abs(most) / -reach : most / reach);
  encode(type, x, 32, f16_to_f32(parts.d), 0, parts.codes);
}

// 256 elements: sub-blocks with integer scales (and mins) under one f16 each.
void quantize_super(Type type, const float* x, Parts& parts) {
  const Layout& layout = kLayouts[format_of(type)];
  const int sub = kBlock / layout.subs, count = 256 / sub;
  float scales[16], mins[16] = {};
  const float reach = type == Type::iq4_xs ? -127 : static_cast<float>(-layout.offset);
  for (int i = 0; i < count; ++i) {
    if (layout.min) {
      const Range range = range_of(x + sub * i, sub, (1 << layout.bits) - 1);
      scales[i] = range.scale;
      mins[i] = range.min;
    } else {
      scales[i] = extreme(x + sub * i, sub) / reach;
    }
  }
  const int top = type == Type::q2_k ? 15 : layout.min ? 63 : type == Type::q6_k ? -128 : -32;
  parts.d = f32_to_f16(extreme(scales, count) / static_cast<float>(top));
  parts.dmin = layout.min ? f32_to_f16(extreme(mins, count) / static_cast<float>(top)) : 0;
  const float d = f16_to_f32(parts.d), dmin = f16_to_f32(parts.dmin);
  const int lowest = layout.min ? 0 : top, highest = layout.min ? top : -top - 1;
  for (int i = 0; i < count; ++i) {
    parts.scales[i] = static_cast<std::int8_t>(nearest(scales[i] * reciprocal(d), lowest, highest));
    parts.mins[i] = byte(layout.min ? nearest(mins[i] * reciprocal(dmin), 0, top) : 0);
    encode(type, x + sub * i, sub, d * static_cast<float>(parts.scales[i]), -dmin * static_cast<float>(parts.mins[i]),
           parts.codes + sub * i);
  }
}

void put_nibbles_of_64(const std::uint8_t* codes, std::uint8_t* qs) {
  for (int i = 0; i < 32; ++i) qs[i] = byte(codes[i] | codes[32 + i] << 4);
}

// A block of 64 with an f16 scale and a zero.
void quantize_zero(Type type, const float* x, std::uint8_t* p) {
  const int top = type == Type::u4z ? 15 : 255;
  const Range range = range_of(x, 64, top);
  const std::uint16_t half = f32_to_f16(range.scale);
  const float d = f16_to_f32(half), inverse = reciprocal(d);
  const int zero = nearest(range.min * inverse, 0, top);
  std::uint8_t codes[64];
  for (int i = 0; i < 64; ++i) codes[i] = byte(nearest(x[i] * inverse + static_cast<float>(zero), 0, top));
  write16(p, half);
  write16(p + 2, static_cast<std::uint16_t>(zero));
  type == Type::u4z ? put_nibbles_of_64(codes, p + 4) : static_cast<void>(std::memcpy(p + 4, codes, 64));
}

int nearest_nf4(float value) {
  return static_cast<int>(std::ranges::min_element(kNf4, {}, [&](float v) { return std::abs(v - value); }) - kNf4);
}

// A block of 64 with an f32 scale, from the greatest magnitude.
void quantize_wide(Type type, const float* x, std::uint8_t* p) {
  const float most = std::abs(extreme(x, 64));
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
  type == Type::nf4 ? put_nibbles_of_64(codes, p + 4) : static_cast<void>(std::memcpy(p + 4, codes, 64));
}

}  // namespace

void quantize_row(Type type, const float* x, std::byte* out, std::int64_t n) {
  auto* p = reinterpret_cast<std::uint8_t*>(out);
  if (type == Type::f32) {
    std::memcpy(out, x, static_cast<std::size_t>(n) * 4);
    return;
  }
  if (type == Type::f16 || type == Type::bf16) {
    for (std::int64_t i = 0; i < n; ++i) write16(p + 2 * i, type == Type::f16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]));
    return;
  }
  const TypeInfo& info = type_info(type);
  if (info.block == 64) {
    const bool wide = kLayouts[format_of(type)].wide;
    for (std::int64_t first = 0; first < n; first += 64, p += info.bytes)
      wide ? quantize_wide(type, x + first, p) : quantize_zero(type, x + first, p);
    return;
  }
  Parts parts;
  for (std::int64_t first = 0; first < n; first += info.block, p += info.bytes) {
    info.block == 32 ? quantize_small(type, x + first, parts) : quantize_super(type, x + first, parts);
    put_together(type, parts, p);
  }
}

}  // namespace ashlar::kernels
