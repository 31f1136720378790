// Writing the blocks of blocks.h.
#include <cmath>
#include <cstring>

#include "base/result.h"
#include "kernels/blocks.h"
#include "kernels/codes.h"

namespace ashlar::kernels {
namespace {

void write16(std::uint8_t* p, std::uint16_t value) {
  p[0] = static_cast<std::uint8_t>(value);
  p[1] = static_cast<std::uint8_t>(value >> 8);
}

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

}  // namespace

void put_together(Type type, const Parts& parts, std::byte* block) {
  auto* p = reinterpret_cast<std::uint8_t*>(block);
  std::memset(p, 0, static_cast<std::size_t>(type_info(type).bytes));
  write16(p, parts.d);
  const std::uint8_t* codes = parts.codes;
  switch (type) {
    case Type::q4_0:
    case Type::iq4_nl:
      return put_nibbles(codes, p + 2);
    case Type::mxfp4: {
      const float d = f16_to_f32(parts.d);
      p[0] = byte(d > 0 ? std::ilogb(d) + 128 : 0);
      p[1] = 0;
      return put_nibbles(codes, p + 1);
    }
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

}  // namespace ashlar::kernels
