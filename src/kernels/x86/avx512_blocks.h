// Reading blocks of packed weights with AVX-512: codes widened to bytes, scales to
// floats. For avx512 files only; all of it has internal linkage.
//
// Codes with an offset are shifted up so that the offset becomes 128 for every
// type; the scale is divided by the same power of two, which is exact.
#pragma once

#include <immintrin.h>

#include "kernels/table.h"
#include "kernels/x86/avx512_math.h"

namespace ashlar::kernels::avx512 {
namespace {

// How far ahead weights are fetched: the hardware stops at each 4 KiB. Measured: a fifth to a third more GB/s.
constexpr int kAhead = 6144;

struct Block {
  __m512i codes[8];
  __m512 scale[2];
  __m512 drop;    // -kLiftValue * scale[0]
  __m512 min[2];  // subtracted
};

struct Unit {
  __m512 d;
  __m512 dmin;
};

// Bits moved up by `by` (down if negative) within each byte; the caller masks.
template <int by>
ASHLAR_INLINE __m512i moved(__m512i v) {
  if constexpr (by > 0) return _mm512_slli_epi32(v, by);
  if constexpr (by < 0) return _mm512_srli_epi32(v, -by);
  return v;
}

ASHLAR_INLINE __m512i bytes(int value) { return _mm512_set1_epi8((char)value); }
ASHLAR_INLINE __m512i load(const uint8_t* p) { return _mm512_loadu_si512(p); }

// (v & mask) | rest
ASHLAR_INLINE __m512i merged(__m512i rest, __m512i v, __m512i mask) {
  return _mm512_ternarylogic_epi32(rest, v, mask, 0xf8);
}

// Nibbles of group g to bits `to`..`to`+3.
template <int g, int to>
ASHLAR_INLINE __m512i nibble(const uint8_t* plane) {
  return _mm512_and_si512(moved < g<4 ? to : to - 4>(load(plane + 64 * (g % 4))), bytes(15 << to));
}

template <int g, int to>
ASHLAR_INLINE __m512i with_pair(__m512i rest, const uint8_t* plane) {
  return merged(rest, moved<to - 2 * (g % 4)>(load(plane + 64 * (g / 4))), bytes(3 << to));
}

template <int g, int to>
ASHLAR_INLINE __m512i with_bit(__m512i rest, const uint8_t* plane) {
  return merged(rest, moved<to - g>(load(plane)), bytes(1 << to));
}

// How the scales of a unit stand, beside the plain f16 ones.
enum Header { kPlain, kWide, kZero };
// Which table the codes are looked up in.
enum Table { kNone, kIq4, kNf4Values, kFp4Values };

// How each type's codes are read: bits of a code and how far they are shifted up.
template <int bits, int up, Table table, int g>
ASHLAR_INLINE __m512i codes_of_group(const uint8_t* p) {
  if constexpr (table != kNone)
    return _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)(table == kIq4         ? kIq4Table
                                                                : table == kNf4Values ? kNf4Table
                                                                                      : kFp4Table))),
        nibble<g, 0>(p));
  else if constexpr (bits == 8)
    return load(p + 64 * g);
  else if constexpr (bits == 6)
    return with_pair<g, up + 4>(nibble<g, up>(p), p + 256);
  else if constexpr (bits == 5)
    return with_bit<g, up + 4>(nibble<g, up>(p), p + 256);
  else if constexpr (bits == 4)
    return nibble<g, up>(p);
  else if constexpr (bits == 3)
    return with_bit<g, up + 2>(_mm512_and_si512(moved<up - 2 * (g % 4)>(load(p + 64 * (g / 4))), bytes(3 << up)),
                               p + 128);
  else
    return _mm512_and_si512(moved<-2 * (g % 4)>(load(p + 64 * (g / 4))), bytes(3));
}

// The shape of a format, as in kLayouts, known to the compiler.
template <int bits_, int blocks_, int subs_, int scale_bytes_, bool min_, bool offset_, Table table_ = kNone,
          Header header_ = kPlain>
struct Shape {
  static constexpr int bits = bits_, blocks = blocks_, subs = subs_, scale_bytes = scale_bytes_;
  static constexpr Table table = table_;
  static constexpr bool wide = header_ == kWide, zero = header_ == kZero;
  static constexpr bool min = min_ || zero, offset = offset_;
  static constexpr int up = offset && table == kNone ? 8 - bits : 0;
  static constexpr int header = zero ? 32 + kLanes : min || wide ? 64 : 32;
  static constexpr int block_bytes = kLanes * scale_bytes + 64 * bits;

  ASHLAR_INLINE void read_unit(const uint8_t* p, Unit& unit) {
    if constexpr (wide) {
      unit.d = _mm512_loadu_ps(p);
      return;
    }
    unit.d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
    if constexpr (zero)
      unit.dmin =
          _mm512_mul_ps(unit.d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p + 32)))));
    if constexpr (up > 0) unit.d = _mm512_mul_ps(unit.d, _mm512_set1_ps(1.0f / (1 << up)));
    if constexpr (min && !zero) unit.dmin = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(p + 32)));
  }

  ASHLAR_INLINE void read_scales(const uint8_t* p, const Unit& unit, Block& block) {
    if constexpr (scale_bytes == 0) {
      block.scale[0] = unit.d;
      if constexpr (zero)
        block.min[0] = unit.dmin;
      else if constexpr (min)
        block.min[0] = _mm512_sub_ps(_mm512_setzero_ps(), unit.dmin);
    } else if constexpr (subs == 2 && min) {
      ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
        const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(p + kLanes * h)));
        const __m512i s = _mm512_and_si512(both, _mm512_set1_epi32(15)), m = _mm512_srli_epi32(both, 4);
        block.scale[h] = _mm512_mul_ps(unit.d, _mm512_cvtepi32_ps(s));
        block.min[h] = _mm512_mul_ps(unit.dmin, _mm512_cvtepi32_ps(m));
      }
    } else {
      ASHLAR_UNROLL for (int h = 0; h < subs; ++h) {
        const __m512i s = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p + kLanes * h)));
        block.scale[h] = _mm512_mul_ps(unit.d, _mm512_cvtepi32_ps(s));
      }
      if constexpr (min) {
        const __m512i m = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(p + kLanes)));
        block.min[0] = _mm512_mul_ps(unit.dmin, _mm512_cvtepi32_ps(m));
      }
    }
  }

  ASHLAR_INLINE void read_block(const uint8_t* p, const Unit& unit, Block& block) {
    read_scales(p, unit, block);
    const uint8_t* planes = p + kLanes * scale_bytes;
    block.drop = _mm512_mul_ps(block.scale[0], _mm512_set1_ps(-kLiftValue));
    block.codes[0] = codes_of_group<bits, up, table, 0>(planes);
    block.codes[1] = codes_of_group<bits, up, table, 1>(planes);
    block.codes[2] = codes_of_group<bits, up, table, 2>(planes);
    block.codes[3] = codes_of_group<bits, up, table, 3>(planes);
    block.codes[4] = codes_of_group<bits, up, table, 4>(planes);
    block.codes[5] = codes_of_group<bits, up, table, 5>(planes);
    block.codes[6] = codes_of_group<bits, up, table, 6>(planes);
    block.codes[7] = codes_of_group<bits, up, table, 7>(planes);
  }
};

//            bits blocks subs scale_bytes min offset table header
typedef Shape<8, 1, 1, 0, false, true> Q8_0;
typedef Shape<4, 1, 1, 0, false, true> Q4_0;
typedef Shape<4, 1, 1, 0, true, false> Q4_1;
typedef Shape<5, 1, 1, 0, false, true> Q5_0;
typedef Shape<5, 1, 1, 0, true, false> Q5_1;
typedef Shape<2, 8, 2, 2, true, false> Q2_K;
typedef Shape<3, 8, 2, 2, false, true> Q3_K;
typedef Shape<4, 8, 1, 2, true, false> Q4_K;
typedef Shape<5, 8, 1, 2, true, false> Q5_K;
typedef Shape<6, 8, 2, 2, false, true> Q6_K;
typedef Shape<4, 1, 1, 0, false, true, kIq4> IQ4_NL;
typedef Shape<4, 8, 1, 1, false, true, kIq4> IQ4_XS;
typedef Shape<4, 2, 1, 0, false, true, kNone, kZero> U4Z;
typedef Shape<8, 2, 1, 0, false, true, kNone, kZero> U8Z;
typedef Shape<8, 2, 1, 0, false, true, kNone, kWide> I8;
typedef Shape<4, 2, 1, 0, false, true, kNf4Values, kWide> NF4;
typedef Shape<4, 1, 1, 0, false, true, kFp4Values> MXFP4;

}  // namespace
}  // namespace ashlar::kernels::avx512
