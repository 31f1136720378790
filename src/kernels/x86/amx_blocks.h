// Reading packed weights as tiles for the matrix unit. For amx files only; all of it
// has internal linkage.
//
// A tile of weights is 16 lines of 64 bytes, one word of 4 bytes for each of 16 weight
// rows. Quantized weights become int8 under one scale for each row and group of columns: a
// code is multiplied by its sub-block's scale in such steps and rounded to the nearest.
// The step is 1/127 of the greatest weight that the row's group can hold, so for
// 4-bit types the rounding adds a hundredth to the variance of the error that they have
// already. Float weights become bf16.
#pragma once

#include <immintrin.h>

#include "kernels/x86/amx_tiles.h"

#define ASHLAR_MEMBER inline __attribute__((always_inline))

namespace ashlar::kernels::amx {
namespace {

// How far ahead weights are fetched within a tile.
constexpr int kNear = 1024, kAhead = 6144;

ASHLAR_INLINE __m512i load(const uint8_t* p) { return _mm512_loadu_si512(p); }
ASHLAR_INLINE __m512i integers(const uint8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
ASHLAR_INLINE __m512i bytes(int value) { return _mm512_set1_epi8((char)value); }

// Bits moved up by `by` (down if negative); the caller masks.
template <int by>
ASHLAR_INLINE __m512i moved(__m512i v) {
  if constexpr (by > 0) return _mm512_slli_epi32(v, by);
  if constexpr (by < 0) return _mm512_srli_epi32(v, -by);
  return v;
}

// (v & mask) | (rest & ~mask)
ASHLAR_INLINE __m512i merged(__m512i rest, __m512i v, __m512i mask) {
  return _mm512_ternarylogic_epi32(mask, v, rest, 0xca);
}

// How the scales of a unit stand, beside the plain f16 ones.
enum Header { kPlain, kWide, kZero };

// A format's shape, as in kLayouts, known to the compiler.
template <int bits_, int blocks_, int subs_, int scale_bytes_, bool min_, int offset_, Header header_ = kPlain>
struct Shape {
  static constexpr int bits = bits_, blocks = blocks_, subs = subs_, scale_bytes = scale_bytes_, offset = offset_;
  static constexpr bool min = min_, wide = header_ == kWide, zero = header_ == kZero;
  static constexpr int header = zero ? 32 + kLanes : min || wide ? 64 : 32;
  static constexpr int block_bytes = kLanes * scale_bytes + 64 * bits;
  static constexpr int unit_bytes = header + blocks * block_bytes;
  static constexpr int most_code = (1 << bits) - 1;
};

// What codes of 4 bits stand for, in steps of which the greatest is `reach`; at most 16 of them from one place on.
struct Centred {  // less 8
  static constexpr int entries = 16, reach = 8;
  static constexpr int value(int c) { return c - 8; }
};
struct Shifted {  // less a zero point: codes begin 16 less it from the start
  static constexpr int entries = 32, reach = 8;
  static constexpr int value(int c) { return c - 16; }
};
struct Iq4 {
  static constexpr int entries = 16, reach = kIq4Reach;
  static constexpr int value(int c) { return kIq4Table[c] - 128; }
};
struct Fp4 {
  static constexpr int entries = 16, reach = kFp4Reach;
  static constexpr int value(int c) { return kFp4Table[c] - 128; }
};
struct Nf4 {
  static constexpr int entries = 16, reach = (int)kNf4Reach;
  static constexpr int value(int c) { return kNf4Table[c] - 128; }
};

// What each of them becomes under a factor k of a block, the int8 of the reach: round(k value / reach), halves to the
// even, at most 127. `lifted`: with 128 added.
template <class Values, bool lifted>
struct Codebooks {
  alignas(64) uint8_t of[256][Values::entries];  // [k + 128]

  constexpr Codebooks() : of() {
    for (int k = -128; k < 128; ++k)
      for (int c = 0; c < Values::entries; ++c) {
        constexpr int twice = 2 * Values::reach, lift = 512;  // which keeps the division from below
        const int halves = 2 * k * Values::value(c) + Values::reach + lift * twice;
        int rounded = halves / twice - lift;
        if (halves % twice == 0 && rounded % 2 != 0) --rounded;
        of[k + 128][c] = (uint8_t)((rounded > 127 ? 127 : rounded < -128 ? -128 : rounded) + (lifted ? 128 : 0));
      }
  }
};
template <class Values, bool lifted>
constexpr Codebooks<Values, lifted> kCodebooks;

// In each lane of 128 bits: word w of vector v to word v of vector w.
ASHLAR_INLINE void transpose_lanes(__m512i v[4]) {
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm512_unpacklo_epi64(a, c);
  v[1] = _mm512_unpackhi_epi64(a, c);
  v[2] = _mm512_unpacklo_epi64(b, d);
  v[3] = _mm512_unpackhi_epi64(b, d);
}

// Weights as int8: the columns of a tile in groups.
template <class S>
class Int8 {
 public:
  static constexpr int kMostTiles = kInt8GroupTiles;  // of 64 columns
  static constexpr int kColumns = kInt8GroupColumns;
  static constexpr bool kScaled = true;
  static constexpr bool kWholeTiles = false;  // as packed

  static ASHLAR_MEMBER int columns(const MatmulJob* job) { return job->units * S::blocks * kBlock; }
  static ASHLAR_MEMBER int group_bytes(const MatmulJob* job) { return int8_group_bytes(int8_lines(job->rows)); }

 protected:
  static constexpr int kBlocks = 2 * kMostTiles;  // of a group
};

// The next group as tiles; returns how many. The rest of an odd last one is zero. before(i) is called before tile i.
template <class Weights, class Before>
ASHLAR_INLINE int widen(Weights& weights, uint8_t* out, float* step, Before before) {
  typename Weights::Group group;
  const int blocks = weights.begin(group, step);
#pragma clang loop unroll(disable)
  for (int b = 0; b < blocks; ++b) {
    if (b % 2 == 0) before(b / 2);
    uint8_t* lines = out + 512 * b;
    weights.template block<false>(group, b, [lines](int line, __m512i w) __attribute__((always_inline)) {
      _mm512_store_si512(lines + 64 * line, w);
    });
  }
  weights.end();
  if (blocks % 2 != 0)
    for (int i = 0; i < 8; ++i) _mm512_store_si512(out + 512 * blocks + 64 * i, _mm512_setzero_si512());
  return (blocks + 1) / 2;
}

// The weights of one tile of 16 weight rows whose codes are looked up, a group of columns at a time.
template <class S, class Values>
class ByCodebooks : public Int8<S> {
 public:
  static constexpr bool kByCodebooks = true;

  ASHLAR_MEMBER ByCodebooks(const MatmulJob* job, const uint8_t* tile, int group)
      : tile_(tile),
        tile_bytes_(job->tile_bytes),
        quarter_(job->tile_bytes / 4),
        p_(tile + (size_t)group * codebook_group_bytes(Int8<S>::kBlocks)),
        left_(Int8<S>::columns(job) / kBlock - group * Int8<S>::kBlocks) {}

  template <class Before>
  ASHLAR_MEMBER int next(uint8_t* out, float* step, Before before) {
    return widen(*this, out, step, before);
  }

  struct Group {
    const uint8_t* codes;
    alignas(64) int32_t books[2 * kInt8GroupTiles][kLanes];  // bytes from the codebook of factor 0
  };

  // Reads the factors of the next group; returns its blocks of 32 columns.
  ASHLAR_MEMBER int begin(Group& group, float* step) {
    const int blocks = least(Int8<S>::kBlocks, left_);
    fetch(p_);
    _mm512_store_ps(step, _mm512_loadu_ps(p_));
    const uint8_t* factors = p_ + 4 * kLanes;
    if constexpr (S::zero) {
      for (int b = 0; b < blocks; b += 2) {
        const __m512i k = integers(factors + kLanes * b), shift = integers(factors + kLanes * (b + 1));
        const __m512i at = _mm512_add_epi32(_mm512_slli_epi32(k, 5), _mm512_and_si512(shift, _mm512_set1_epi32(31)));
        _mm512_store_si512(group.books[b], at);
        _mm512_store_si512(group.books[b + 1], at);
      }
    } else {
      for (int b = 0; b < blocks; ++b)
        _mm512_store_si512(group.books[b], _mm512_slli_epi32(integers(factors + kLanes * b), 4));
    }
    group.codes = p_ + codebook_header_bytes(blocks);
    fetch(group.codes - 256);
    return blocks;
  }

  // take(q, h, weights) has of rows q, 4 + q, 8 + q and 12 + q the columns from 16 h on, the two of each pair
  // exchanged. `lifted`: 128 added to each weight.
  template <bool lifted, class Take>
  ASHLAR_MEMBER void quarters(const Group& group, int block, Take take) const {
    const uint8_t* codes = group.codes + 256 * block;
    const uint8_t* books = kCodebooks<Values, lifted>.of[128];
    fetch(codes);
    ASHLAR_UNROLL for (int i = 0; i < 4; ++i) _mm_prefetch((const char*)codes + kNear + 64 * i, _MM_HINT_T0);
    ASHLAR_UNROLL for (int q = 0; q < 4; ++q) {
      const int32_t* at = group.books[block] + q;
      __m512i book = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)(books + at[0])));
      book = _mm512_mask_broadcast_i32x4(book, 0x00f0, _mm_loadu_si128((const __m128i*)(books + at[4])));
      book = _mm512_mask_broadcast_i32x4(book, 0x0f00, _mm_loadu_si128((const __m128i*)(books + at[8])));
      book = _mm512_mask_broadcast_i32x4(book, 0xf000, _mm_loadu_si128((const __m128i*)(books + at[12])));
      const __m512i both = load(codes + 64 * q);
      take(q, 0, _mm512_shuffle_epi8(book, _mm512_and_si512(both, bytes(15))));
      take(q, 1, _mm512_shuffle_epi8(book, _mm512_and_si512(_mm512_srli_epi32(both, 4), bytes(15))));
    }
  }

  // The eight lines of a block: take(0..7, weights).
  template <bool lifted, class Take>
  ASHLAR_MEMBER void block(const Group& group, int block, Take take) const {
    __m512i halves[2][4];
    quarters<lifted>(group, block, [&](int q, int h, __m512i w) __attribute__((always_inline)) { halves[h][q] = w; });
    ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
      transpose_lanes(halves[h]);
      ASHLAR_UNROLL for (int g = 0; g < 4; ++g) take(4 * h + g, halves[h][g]);
    }
  }

  ASHLAR_MEMBER void end() {
    p_ += codebook_group_bytes(Int8<S>::kBlocks);
    left_ -= Int8<S>::kBlocks;
  }

 private:
  // The tile after this one, a quarter of it beside the other: four streams get a third more from memory than one.
  ASHLAR_MEMBER void fetch(const uint8_t* here) const {
    const uint8_t* next = tile_ + tile_bytes_ + ((here - tile_) / 4 & -64);
    ASHLAR_UNROLL for (int q = 0; q < 4; ++q) _mm_prefetch((const char*)next + (size_t)q * quarter_, _MM_HINT_T0);
  }

  const uint8_t* tile_;
  size_t tile_bytes_, quarter_;
  const uint8_t* p_;
  int left_;  // blocks from here on
};

// The weights of one tile of 16 weight rows, a group of columns at a time.
template <class S>
class Quantized : public Int8<S> {
 public:
  static constexpr bool kByCodebooks = false;
  ASHLAR_MEMBER Quantized(const MatmulJob* job, const uint8_t* tile, int group)
      : tile_(tile),
        tile_bytes_(job->tile_bytes),
        quarter_(job->tile_bytes / 4),
        p_(tile + (size_t)(group * Int8<S>::kBlocks / S::blocks) * S::unit_bytes),
        left_(Int8<S>::columns(job) / kBlock - group * Int8<S>::kBlocks) {}

  template <class Before>
  ASHLAR_MEMBER int next(uint8_t* out, float* step, Before before) {
    return widen(*this, out, step, before);
  }

  struct Scales {
    __m512 scale, min;  // weight = scale * code + min
  };
  struct Group {
    Scales scales[2 * kInt8GroupTiles * S::subs];
    __m512 inverse;  // of the step
  };

  // Reads the scales of the next group; returns its blocks of 32 columns.
  ASHLAR_MEMBER int begin(Group& group, float* step) {
    const int blocks = least(Int8<S>::kBlocks, left_);
    __m512 most = _mm512_setzero_ps();
    for (int b = 0; b < blocks; ++b) read_scales(b, group.scales + b * S::subs, most);
    group.inverse =
        _mm512_maskz_div_ps(_mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ), _mm512_set1_ps(1.0f), most);
    _mm512_store_ps(step, most);
    return blocks;
  }

  // The eight lines of a block: take(0..7, weights). `lifted`: 128 added to each weight.
  template <bool lifted, class Take>
  ASHLAR_MEMBER void block(const Group& group, int block, Take take) const {
    const Scales* scales = group.scales + block * S::subs;
    fetch(body(block));
    const Factors low = factors<lifted>(scales[0], group.inverse);
    Factors high = low;
    if constexpr (S::subs == 2) high = factors<lifted>(scales[1], group.inverse);
    const uint8_t* planes = body(block) + kLanes * S::scale_bytes;
    take(0, line<lifted, 0>(planes, low));
    take(1, line<lifted, 1>(planes, low));
    take(2, line<lifted, 2>(planes, low));
    take(3, line<lifted, 3>(planes, low));
    take(4, line<lifted, 4>(planes, high));
    take(5, line<lifted, 5>(planes, high));
    take(6, line<lifted, 6>(planes, high));
    take(7, line<lifted, 7>(planes, high));
  }

  ASHLAR_MEMBER void end() {
    p_ += least(Int8<S>::kBlocks, left_) / S::blocks * S::unit_bytes;
    left_ -= Int8<S>::kBlocks;
  }

 private:
  // The tile after this one, a quarter of it beside the other: four streams get a third more from memory than one.
  ASHLAR_MEMBER void fetch(const uint8_t* here) const {
    constexpr int kQuarter = S::unit_bytes / S::blocks / 4;
    const uint8_t* next = tile_ + tile_bytes_ + ((here - tile_) / 4 & -64);
    ASHLAR_UNROLL for (int q = 0; q < 4; ++q) ASHLAR_UNROLL for (int i = 0; i <= kQuarter / 64; ++i)
        _mm_prefetch((const char*)next + (size_t)q * quarter_ + 64 * i, _MM_HINT_T0);
    ASHLAR_UNROLL for (int i = 0; i < (S::block_bytes + 63) / 64; ++i)
        _mm_prefetch((const char*)here + kNear + 64 * i, _MM_HINT_T0);
  }

  ASHLAR_MEMBER const uint8_t* unit(int block) const { return p_ + block / S::blocks * S::unit_bytes; }
  ASHLAR_MEMBER const uint8_t* body(int block) const {
    return unit(block) + S::header + block % S::blocks * S::block_bytes;
  }

  static ASHLAR_MEMBER __m512 halves(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
  }

  // Scales of a block's sub-blocks; `most` becomes the step that can hold them too.
  ASHLAR_MEMBER void read_scales(int block, Scales* out, __m512& most) const {
    const __m512 d = S::wide ? _mm512_loadu_ps(unit(block)) : halves(unit(block));
    __m512 dmin = _mm512_setzero_ps();
    if constexpr (S::zero) {  // (codes are taken without their offset)
      const __m512i zero = _mm512_add_epi32(integers(unit(block) + 32), _mm512_set1_epi32(1 << (S::bits - 1)));
      dmin = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_setzero_si512(), zero)));
    } else if constexpr (S::min) {
      dmin = halves(unit(block) + 32);
    }
    const uint8_t* p = body(block);
    ASHLAR_UNROLL for (int h = 0; h < S::subs; ++h) {
      Scales& s = out[h];
      if constexpr (S::scale_bytes == 0) {
        s.scale = d;
        s.min = dmin;
      } else if constexpr (S::subs == 2 && S::min) {
        const __m512i both = integers(p + kLanes * h);
        s.scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15))));
        const __m512i m = _mm512_and_si512(_mm512_srli_epi32(both, 4), _mm512_set1_epi32(15));
        s.min = _mm512_mul_ps(dmin, _mm512_sub_ps(_mm512_setzero_ps(), _mm512_cvtepi32_ps(m)));
      } else {
        s.scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(integers(p + kLanes * h)));
        if constexpr (S::min)
          s.min = _mm512_mul_ps(dmin, _mm512_sub_ps(_mm512_setzero_ps(), _mm512_cvtepi32_ps(integers(p + kLanes))));
      }
      most = _mm512_max_ps(most, _mm512_mul_ps(reach(s), _mm512_set1_ps(kStep)));
    }
  }

  // Codes of 8 bits stay as they are under the greatest scale; the range of others is brought to that of int8.
  static constexpr bool kWhole = S::offset == 128;
  // (Scales of Q6_K are 128ths of the greatest: 127 steps would round nearly all of them down.)
  static constexpr float kStep = kWhole ? 1.0f : S::min ? 1 / 126.0f : S::bits == 6 ? 1 / 124.0f : 1 / 127.0f;

  static ASHLAR_MEMBER __m512 reach(const Scales& s) {
    if constexpr (kWhole) {  // of a negative scale, code 0 would give 128
      const __mmask16 negative = _mm512_cmp_ps_mask(s.scale, _mm512_setzero_ps(), _CMP_LT_OQ);
      const __m512 size = _mm512_abs_ps(s.scale);
      return _mm512_mask_mul_ps(size, negative, size, _mm512_set1_ps(129.0f / 127));
    } else if constexpr (S::min) {
      const __m512 far = _mm512_fmadd_ps(s.scale, _mm512_set1_ps((float)S::most_code), s.min);
      return _mm512_max_ps(_mm512_abs_ps(s.min), _mm512_abs_ps(far));
    } else {
      return _mm512_mul_ps(_mm512_abs_ps(s.scale), _mm512_set1_ps((float)S::offset));
    }
  }

  // What turns a code c into int8, in all words or bytes of a row's lane. With an offset, k is the int8 of -offset:
  // round(c k / offset) - k, exact where c is the offset. With a min, floor(c times / 256 + plus).
  struct Factors {
    __m512i times;     // k 256 / offset; of 8 bits half of it; with a min the scale in 256ths
    __m512i halved;    // half of it
    __m512i negative;  // of it
    __m512i plus;      // rounding, and the min in 256ths
    __m512i less;      // k
  };

  // The low half of each lane in both halves.
  static ASHLAR_MEMBER __m512i twice(__m512i v) {
    return _mm512_mask_mov_epi16(v, 0xaaaaaaaa, _mm512_slli_epi32(v, 16));
  }

  // `lifted`: for weights with 128 added, modulo 256.
  template <bool lifted>
  static ASHLAR_MEMBER Factors factors(const Scales& s, __m512 inverse) {
    constexpr float kUnit = S::min ? 256.0f : (float)S::offset;
    const __m512 in_steps = _mm512_mul_ps(s.scale, inverse);
    const __m512i k = _mm512_cvtps_epi32(_mm512_mul_ps(in_steps, _mm512_set1_ps(kUnit)));
    Factors f;
    if constexpr (S::min) {
      f.times = twice(k);
      const __m512i min = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(s.min, inverse), _mm512_set1_ps(kUnit)));
      f.plus = twice(_mm512_add_epi32(min, _mm512_set1_epi32(lifted ? 128 + 256 * 128 : 128)));
    } else if constexpr (kWhole) {
      f.times = twice(k);
      f.negative = _mm512_sub_epi16(_mm512_setzero_si512(), f.times);
    } else {
      f.halved = twice(_mm512_mullo_epi32(k, _mm512_set1_epi32(128 / S::offset)));
      f.times = _mm512_add_epi16(f.halved, f.halved);
      const __m512i low_byte = _mm512_broadcast_i32x4(_mm_set_epi8(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0));
      f.less = _mm512_shuffle_epi8(k, low_byte);
      if constexpr (lifted) f.less = _mm512_xor_si512(f.less, bytes(128));
    }
    return f;
  }

  // Group g of a block to a line. Modulo 256 throughout; the two bytes of each pair change places. Of products that
  // lie in the middle one of the two is rounded up and the other down, so that a row's weights do not drift together.
  template <bool lifted, int g>
  static ASHLAR_MEMBER __m512i line(const uint8_t* planes, const Factors& f) {
    const __m512i c = codes<g>(planes), high = _mm512_set1_epi16((short)0xff00);
    constexpr int wide = S::bits == 4 ? 15 : 255;  // codes of 4 bits come with their neighbours
    if constexpr (kWhole) {                        // signed
      const __m512i odd = _mm512_mulhrs_epi16(_mm512_and_si512(c, high), f.times);
      const __m512i even = _mm512_mulhrs_epi16(_mm512_slli_epi16(c, 8), f.negative);
      const __m512i line = merged(odd, _mm512_slli_epi16(_mm512_sub_epi16(_mm512_setzero_si512(), even), 8), high);
      return lifted ? _mm512_xor_si512(line, bytes(128)) : line;
    } else if constexpr (S::min) {
      const __m512i even = _mm512_mullo_epi16(_mm512_and_si512(c, _mm512_set1_epi16(wide)), f.times);
      const __m512i second = _mm512_and_si512(_mm512_srli_epi16(c, 8), _mm512_set1_epi16(wide));
      const __m512i odd = _mm512_add_epi16(_mm512_mullo_epi16(second, f.times), f.plus);
      return merged(_mm512_srli_epi16(odd, 8), _mm512_add_epi16(even, f.plus), high);
    } else {
      const __m512i even = _mm512_mullo_epi16(_mm512_and_si512(c, _mm512_set1_epi16(wide)), f.times);
      const __m512i odd = _mm512_mulhrs_epi16(_mm512_and_si512(c, _mm512_set1_epi16((short)(wide << 8))), f.halved);
      return _mm512_sub_epi8(merged(odd, _mm512_add_epi16(even, _mm512_set1_epi16(127)), high), f.less);
    }
  }

  template <int g>
  static ASHLAR_MEMBER __m512i codes(const uint8_t* p) {
    const auto nibble = [&] { return moved < g<4 ? 0 : -4>(load(p + 64 * (g % 4))); };
    if constexpr (S::bits == 8) {
      return S::min ? load(p + 64 * g) : _mm512_xor_si512(load(p + 64 * g), bytes(128));
    } else if constexpr (S::bits == 6) {
      const __m512i pair = _mm512_and_si512(moved<4 - 2 * (g % 4)>(load(p + 256 + 64 * (g / 4))), bytes(0x30));
      return merged(pair, nibble(), bytes(15));
    } else if constexpr (S::bits == 5) {
      const __m512i bit = _mm512_and_si512(moved<4 - g>(load(p + 256)), bytes(0x10));
      return merged(bit, nibble(), bytes(15));
    } else if constexpr (S::bits == 4) {
      return nibble();
    } else if constexpr (S::bits == 3) {
      const __m512i bit = _mm512_and_si512(moved<2 - g>(load(p + 128)), bytes(4));
      return merged(bit, moved<-2 * (g % 4)>(load(p + 64 * (g / 4))), bytes(3));
    } else {
      return _mm512_and_si512(moved<-2 * (g % 4)>(load(p + 64 * (g / 4))), bytes(3));
    }
  }

  const uint8_t* tile_;
  size_t tile_bytes_, quarter_;
  const uint8_t* p_;
  int left_;  // blocks from here on
};

// Weights of 16 bits, 512 columns at a time as tiles of bf16. Each line has two
// columns of 16 weight rows; columns beyond the last are zero.
class Floats {
 public:
  static constexpr int kMostTiles = kBf16GroupTiles;  // of 32 columns
  static constexpr int kColumns = kMostTiles * 32;
  static constexpr bool kScaled = false;
  static constexpr bool kWholeTiles = false;
  static int columns(const MatmulJob* job) { return job->units; }
  static int group_bytes(const MatmulJob*) { return kBf16GroupBytes; }

 protected:
  Floats(const MatmulJob* job, const uint8_t* tile, int group)
      : p_(tile + (size_t)group * kMostTiles * kTileBytes), left_(job->units - group * kColumns) {}

  template <class Before, class Line>
  ASHLAR_MEMBER int each_line(uint8_t* out, Before before, Line line) {
    const int count = least(kColumns, left_), tiles = (count + 31) / 32;
    left_ -= kColumns;
    for (int i = 0; i < tiles * 16; ++i, p_ += 64, out += 64) {
      if (i % 16 == 0) before(i / 16);
      _mm_prefetch((const char*)p_ + kAhead, _MM_HINT_T0);
      _mm512_store_si512(out, 2 * i < count ? line(p_, 2 * i + 1 < count) : _mm512_setzero_si512());
    }
    return tiles;
  }

  const uint8_t* p_;
  int left_;
};

class Bf16 : public Floats {
 public:
  static constexpr bool kWholeTiles = true;
  Bf16(const MatmulJob* job, const uint8_t* tile, int group) : Floats(job, tile, group) {}
  // Packed as the tiles are.
  template <class Before>
  ASHLAR_MEMBER int next(uint8_t* out, float*, Before before) {
    return each_line(out, before, [](const uint8_t* p, bool) { return load(p); });
  }
};

class F16 : public Floats {
 public:
  F16(const MatmulJob* job, const uint8_t* tile, int group) : Floats(job, tile, group) {}
  template <class Before>
  ASHLAR_MEMBER int next(uint8_t* out, float*, Before before) {
    return each_line(out, before, [](const uint8_t* p, bool second) {
      const __m512i low = rounded(p), high = second ? rounded(p + 32) : _mm512_setzero_si512();
      return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    });
  }

 private:
  // One column to bf16, to nearest even, each in the low half of a word of 32 bits.
  static ASHLAR_MEMBER __m512i rounded(const uint8_t* p) {
    const __m512 v = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v));
  }
};

//                      bits blocks subs scale_bytes min offset header
typedef Quantized<Shape<8, 1, 1, 0, false, 128>> Q8_0;
typedef ByCodebooks<Shape<4, 1, 1, 0, false, 8>, Centred> Q4_0;
typedef Quantized<Shape<4, 1, 1, 0, true, 0>> Q4_1;
typedef Quantized<Shape<5, 1, 1, 0, false, 16>> Q5_0;
typedef Quantized<Shape<5, 1, 1, 0, true, 0>> Q5_1;
typedef Quantized<Shape<2, 8, 2, 2, true, 0>> Q2_K;
typedef Quantized<Shape<3, 8, 2, 2, false, 4>> Q3_K;
typedef Quantized<Shape<4, 8, 1, 2, true, 0>> Q4_K;
typedef Quantized<Shape<5, 8, 1, 2, true, 0>> Q5_K;
typedef Quantized<Shape<6, 8, 2, 2, false, 32>> Q6_K;
typedef ByCodebooks<Shape<4, 1, 1, 0, false, 0>, Iq4> IQ4_NL;
typedef ByCodebooks<Shape<4, 8, 1, 1, false, 0>, Iq4> IQ4_XS;
typedef ByCodebooks<Shape<4, 2, 1, 0, false, 8, kZero>, Shifted> U4Z;
typedef Quantized<Shape<8, 2, 1, 0, true, 0, kZero>> U8Z;
typedef Quantized<Shape<8, 2, 1, 0, false, 128, kWide>> I8;
typedef ByCodebooks<Shape<4, 2, 1, 0, false, 0, kWide>, Nf4> NF4;
typedef ByCodebooks<Shape<4, 1, 1, 0, false, 0>, Fp4> MXFP4;

}  // namespace
}  // namespace ashlar::kernels::amx
