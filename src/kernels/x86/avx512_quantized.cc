// Products of quantized weights, AVX-512 with VNNI. One tile of 16 weight rows at
// a time: its codes are widened to bytes in eight registers and meet up to 16 rows
// of activations, four columns at a time, broadcast from memory (vpdpbusd).
//
// Codes with an offset are shifted up so that the offset becomes 128 for every
// type; the scale is divided by the same power of two, which is exact. The
// activations bring -128 * sum(x) along, and the integer sum starts there.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

typedef int32_t __attribute__((may_alias, aligned(1))) Int32;

// How far ahead weights are fetched: the hardware stops at each 4 KiB. Measured: a fifth to a third more GB/s.
constexpr int kAhead = 6144;

struct Block {
  __m512i codes[8];
  __m512 scale[2];
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
ASHLAR_INLINE __m512i merged(__m512i rest, __m512i v, __m512i mask) { return _mm512_ternarylogic_epi32(rest, v, mask, 0xf8); }

// Nibbles of group g to bits `to`..`to`+3.
template <int g, int to>
ASHLAR_INLINE __m512i nibble(const uint8_t* plane) {
  return _mm512_and_si512(moved<g < 4 ? to : to - 4>(load(plane + 64 * (g % 4))), bytes(15 << to));
}

template <int g, int to>
ASHLAR_INLINE __m512i with_pair(__m512i rest, const uint8_t* plane) {
  return merged(rest, moved<to - 2 * (g % 4)>(load(plane + 64 * (g / 4))), bytes(3 << to));
}

template <int g, int to>
ASHLAR_INLINE __m512i with_bit(__m512i rest, const uint8_t* plane) {
  return merged(rest, moved<to - g>(load(plane)), bytes(1 << to));
}

// How each type's codes are read: bits of a code and how far they are shifted up.
template <int bits, int up, bool table, int g>
ASHLAR_INLINE __m512i codes_of_group(const uint8_t* p) {
  if constexpr (table)
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)kIq4Table)), nibble<g, 0>(p));
  else if constexpr (bits == 8)
    return load(p + 64 * g);
  else if constexpr (bits == 6)
    return with_pair<g, up + 4>(nibble<g, up>(p), p + 256);
  else if constexpr (bits == 5)
    return with_bit<g, up + 4>(nibble<g, up>(p), p + 256);
  else if constexpr (bits == 4)
    return nibble<g, up>(p);
  else if constexpr (bits == 3)
    return with_bit<g, up + 2>(_mm512_and_si512(moved<up - 2 * (g % 4)>(load(p + 64 * (g / 4))), bytes(3 << up)), p + 128);
  else
    return _mm512_and_si512(moved<-2 * (g % 4)>(load(p + 64 * (g / 4))), bytes(3));
}

// The shape of a format, as in kLayouts, known to the compiler.
template <int bits_, int blocks_, int subs_, int scale_bytes_, bool min_, bool offset_, bool table_ = false>
struct Shape {
  static constexpr int bits = bits_, blocks = blocks_, subs = subs_, scale_bytes = scale_bytes_;
  static constexpr bool min = min_, offset = offset_, table = table_;
  static constexpr int up = offset && !table ? 8 - bits : 0;
  static constexpr int header = min ? 64 : 32;
  static constexpr int block_bytes = kLanes * scale_bytes + 64 * bits;

  ASHLAR_INLINE void read_unit(const uint8_t* p, Unit& unit) {
    unit.d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
    if constexpr (up > 0) unit.d = _mm512_mul_ps(unit.d, _mm512_set1_ps(1.0f / (1 << up)));
    if constexpr (min) unit.dmin = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(p + 32)));
  }

  ASHLAR_INLINE void read_scales(const uint8_t* p, const Unit& unit, Block& block) {
    if constexpr (scale_bytes == 0) {
      block.scale[0] = unit.d;
      if constexpr (min) block.min[0] = _mm512_sub_ps(_mm512_setzero_ps(), unit.dmin);
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

ASHLAR_INLINE __m512 each(const float* p) { return _mm512_set1_ps(*p); }

template <int first, int count>
ASHLAR_INLINE __m512 dot(const Block& w, const int8_t* x, __m512i sum) {
  ASHLAR_UNROLL for (int g = first; g < first + count; ++g)
    sum = _mm512_dpbusd_epi32(sum, w.codes[g], _mm512_set1_epi32(*(const Int32*)(x + 4 * g)));
  return _mm512_cvtepi32_ps(sum);
}

// One block times one row, in the order of ref.
template <class S>
ASHLAR_INLINE __m512 accumulate(const Block& w, const PanelBlock* x, int r, __m512 sum) {
  const int8_t* codes = x->codes[r];
  const __m512i zero = _mm512_setzero_si512();
  __m512 product;
  if constexpr (S::subs == 2) {
    const __m512 a = dot<0, 4>(w, codes, S::offset ? _mm512_set1_epi32(x->bias_half[0][r]) : zero);
    const __m512 b = dot<4, 4>(w, codes, S::offset ? _mm512_set1_epi32(x->bias_half[1][r]) : zero);
    product = _mm512_fmadd_ps(b, w.scale[1], _mm512_mul_ps(a, w.scale[0]));
  } else {
    product = _mm512_mul_ps(dot<0, 8>(w, codes, S::offset ? _mm512_set1_epi32(x->bias[r]) : zero), w.scale[0]);
  }
  sum = _mm512_fmadd_ps(product, each(&x->scale[r]), sum);
  if constexpr (S::min && S::subs == 2) {
    sum = _mm512_fnmadd_ps(w.min[0], each(&x->sum_half[0][r]), sum);
    sum = _mm512_fnmadd_ps(w.min[1], each(&x->sum_half[1][r]), sum);
  } else if constexpr (S::min) {
    sum = _mm512_fnmadd_ps(w.min[0], each(&x->sum[r]), sum);
  }
  return sum;
}

template <class S, int R>
static void multiply(const uint8_t* tile, int units, const PanelBlock* x, int rows, float* y, size_t ldy, __mmask16 lanes) {
  __m512 sums[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[r] = _mm512_setzero_ps();
  for (int u = 0; u < units; ++u) {
    Unit unit;
    S::read_unit(tile, unit);
    tile += S::header;
#pragma clang loop unroll(disable)
    for (int b = 0; b < S::blocks; ++b, ++x, tile += S::block_bytes) {
      Block block;
      if constexpr (R <= 8)  // with more rows the load ports are busy, and memory is not the limit
        ASHLAR_UNROLL for (int i = 0; i < S::block_bytes; i += 64) _mm_prefetch((const char*)tile + kAhead + i, _MM_HINT_T0);
      S::read_block(tile, unit, block);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[r] = accumulate<S>(block, x, r, sums[r]);
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < R; ++r)
    if (r < rows) _mm512_mask_storeu_ps(y + (size_t)r * ldy, lanes, sums[r]);
}

template <class S>
static void matmul(const MatmulJob* job) {
  for (int first = 0; first < job->rows; first += kPanelRows) {
    const PanelBlock* x = (const PanelBlock*)((const uint8_t*)job->x + job->panel_bytes * (size_t)(first / kPanelRows));
    const int rows = job->rows - first;
    const uint8_t* tile = job->tiles;
    for (int o = 0; o < job->outputs; o += kLanes, tile += job->tile_bytes) {
      const int left = job->outputs - o;
      const __mmask16 lanes = left >= kLanes ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
      float* y = job->y + (size_t)first * job->ldy + o;
      if (rows > 12) multiply<S, 16>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 8) multiply<S, 12>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 6) multiply<S, 8>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 4) multiply<S, 6>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 3) multiply<S, 4>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 2) multiply<S, 3>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 1) multiply<S, 2>(tile, job->units, x, rows, y, job->ldy, lanes);
      else multiply<S, 1>(tile, job->units, x, rows, y, job->ldy, lanes);
    }
  }
}

//                 bits blocks subs scale_bytes min offset table
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
typedef Shape<4, 1, 1, 0, false, true, true> IQ4_NL;
typedef Shape<4, 8, 1, 1, false, true, true> IQ4_XS;

}  // namespace

void matmul_q8_0(const MatmulJob* job) { matmul<Q8_0>(job); }
void matmul_q4_0(const MatmulJob* job) { matmul<Q4_0>(job); }
void matmul_q4_1(const MatmulJob* job) { matmul<Q4_1>(job); }
void matmul_q5_0(const MatmulJob* job) { matmul<Q5_0>(job); }
void matmul_q5_1(const MatmulJob* job) { matmul<Q5_1>(job); }
void matmul_q2_k(const MatmulJob* job) { matmul<Q2_K>(job); }
void matmul_q3_k(const MatmulJob* job) { matmul<Q3_K>(job); }
void matmul_q4_k(const MatmulJob* job) { matmul<Q4_K>(job); }
void matmul_q5_k(const MatmulJob* job) { matmul<Q5_K>(job); }
void matmul_q6_k(const MatmulJob* job) { matmul<Q6_K>(job); }
void matmul_iq4_nl(const MatmulJob* job) { matmul<IQ4_NL>(job); }
void matmul_iq4_xs(const MatmulJob* job) { matmul<IQ4_XS>(job); }

namespace {

ASHLAR_INLINE int sum_of(__m512i v) { return _mm512_reduce_add_epi32(v); }

// 32 columns of one row.
ASHLAR_INLINE void quantize_block(const float* v, PanelBlock* out, int r) {
  const __m512 a = _mm512_loadu_ps(v), b = _mm512_loadu_ps(v + 16);
  const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
  if (!(most >= 0x1p-100f)) return;
  const __m512 inverse = _mm512_set1_ps(127.0f / most), bound = _mm512_set1_ps(127.5f);
  const __m512 p = _mm512_mul_ps(a, inverse), q = _mm512_mul_ps(b, inverse);
  const __m512i i = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(_mm512_abs_ps(p), bound, _CMP_LE_OQ), p);
  const __m512i j = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(_mm512_abs_ps(q), bound, _CMP_LE_OQ), q);
  _mm_store_si128((__m128i*)out->codes[r], _mm512_cvtepi32_epi8(i));
  _mm_store_si128((__m128i*)(out->codes[r] + 16), _mm512_cvtepi32_epi8(j));
  const int first = sum_of(i), second = sum_of(j);
  const float scale = most / 127.0f;
  out->scale[r] = scale;
  out->bias[r] = -128 * (first + second);
  out->bias_half[0][r] = -128 * first;
  out->bias_half[1][r] = -128 * second;
  out->sum[r] = scale * (float)(first + second);
  out->sum_half[0][r] = scale * (float)first;
  out->sum_half[1][r] = scale * (float)second;
}

}  // namespace

void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel) {
  for (int b = 0; b < columns / kBlock; ++b) {
    __m512i* words = (__m512i*)(panel + b);
    for (size_t i = 0; i < sizeof(PanelBlock) / 64; ++i) _mm512_storeu_si512(words + i, _mm512_setzero_si512());
    for (int r = 0; r < rows; ++r) quantize_block(x + (size_t)r * ldx + (size_t)(b * kBlock), panel + b, r);
  }
}

}  // namespace ashlar::kernels::avx512
