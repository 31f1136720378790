// Products of quantized weights, AVX2. Half a tile (8 weight rows) at a time: its
// codes are widened to bytes and meet up to 8 rows of activations. Products of
// bytes are added as 16-bit numbers for as many groups as cannot overflow, then as 32-bit.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

typedef int32_t __attribute__((may_alias, aligned(1))) Int32;

struct Block {
  __m256i codes[8];
  __m256 scale[2];
  __m256 min[2];  // subtracted
};

struct Unit {
  __m256 d;
  __m256 dmin;
};

// Bits moved up by `by` (down if negative) within each byte; the caller masks.
template <int by>
ASHLAR_INLINE __m256i moved(__m256i v) {
  if constexpr (by > 0) return _mm256_slli_epi32(v, by);
  if constexpr (by < 0) return _mm256_srli_epi32(v, -by);
  return v;
}

ASHLAR_INLINE __m256i load(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }

// A field of `mask` bits in each byte of `plane`, moved up by `by`.
template <int by>
ASHLAR_INLINE __m256i field(const uint8_t* plane, int mask) {
  return _mm256_and_si256(moved<by>(load(plane)), _mm256_set1_epi8((char)mask));
}

template <int g>
ASHLAR_INLINE __m256i nibble(const uint8_t* p) {
  return field < g<4 ? 0 : -4>(p + 64 * (g % 4), 15);
}
template <int g, int to>
ASHLAR_INLINE __m256i pair(const uint8_t* p) {
  return field<to - 2 * (g % 4)>(p + 64 * (g / 4), 3 << to);
}
template <int g, int to>
ASHLAR_INLINE __m256i bit(const uint8_t* p) {
  return field<to - g>(p, 1 << to);
}

// How the scales of a unit stand, beside the plain f16 ones.
enum Header { kPlain, kWide, kZero };
// Which table the codes are looked up in.
enum Table { kNone, kIq4, kNf4Values, kFp4Values };

// Codes as unsigned bytes; those of 8 bits and of tables as signed ones.
template <int bits, Table table, int g>
ASHLAR_INLINE __m256i codes_of_group(const uint8_t* p) {
  const __m256i top = _mm256_set1_epi8((char)128);
  if constexpr (table != kNone) {
    const uint8_t* of = table == kIq4 ? kIq4Table : table == kNf4Values ? kNf4Table : kFp4Table;
    const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)of));
    return _mm256_xor_si256(_mm256_shuffle_epi8(values, nibble<g>(p)), top);
  } else if constexpr (bits == 8) {
    return _mm256_xor_si256(load(p + 64 * g), top);
  } else if constexpr (bits == 6) {
    return _mm256_or_si256(nibble<g>(p), pair<g, 4>(p + 256));
  } else if constexpr (bits == 5) {
    return _mm256_or_si256(nibble<g>(p), bit<g, 4>(p + 256));
  } else if constexpr (bits == 4) {
    return nibble<g>(p);
  } else if constexpr (bits == 3) {
    return _mm256_or_si256(pair<g, 0>(p), bit<g, 2>(p + 128));
  } else {
    return pair<g, 0>(p);
  }
}

// The shape of a format, as in kLayouts, known to the compiler.
template <int bits_, int blocks_, int subs_, int scale_bytes_, bool min_, bool offset_, Table table_ = kNone,
          Header header_ = kPlain>
struct Shape {
  static constexpr int bits = bits_, blocks = blocks_, subs = subs_, scale_bytes = scale_bytes_;
  static constexpr Table table = table_;
  static constexpr bool wide = header_ == kWide, zero = header_ == kZero;
  static constexpr bool min = min_ || zero, is_signed = table_ != kNone || bits_ == 8;
  static constexpr bool offset = offset_ && !is_signed;
  static constexpr int groups = bits <= 4 ? 8 : bits == 5 ? 4 : 2;  // whose 16-bit sums cannot overflow
  static constexpr int header = zero ? 32 + kLanes : min || wide ? 64 : 32;
  static constexpr int block_bytes = kLanes * scale_bytes + 64 * bits;

  ASHLAR_INLINE void read_unit(const uint8_t* p, int half, Unit& unit) {
    if constexpr (wide) {
      unit.d = _mm256_loadu_ps((const float*)(p + 32 * half));
      return;
    }
    unit.d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 16 * half)));
    if constexpr (zero) {
      const __m256i z = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 32 + 8 * half)));
      unit.dmin = _mm256_mul_ps(unit.d, _mm256_cvtepi32_ps(z));
    } else if constexpr (min)
      unit.dmin = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 32 + 16 * half)));
  }

  ASHLAR_INLINE void read_scales(const uint8_t* p, const Unit& unit, Block& block) {
    if constexpr (scale_bytes == 0) {
      block.scale[0] = unit.d;
      if constexpr (zero)
        block.min[0] = unit.dmin;
      else if constexpr (min)
        block.min[0] = _mm256_sub_ps(_mm256_setzero_ps(), unit.dmin);
    } else if constexpr (subs == 2 && min) {
      ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
        const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + kLanes * h)));
        const __m256i s = _mm256_and_si256(both, _mm256_set1_epi32(15)), m = _mm256_srli_epi32(both, 4);
        block.scale[h] = _mm256_mul_ps(unit.d, _mm256_cvtepi32_ps(s));
        block.min[h] = _mm256_mul_ps(unit.dmin, _mm256_cvtepi32_ps(m));
      }
    } else {
      ASHLAR_UNROLL for (int h = 0; h < subs; ++h) {
        const __m256i s = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + kLanes * h)));
        block.scale[h] = _mm256_mul_ps(unit.d, _mm256_cvtepi32_ps(s));
      }
      if constexpr (min) {
        const __m256i m = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + kLanes)));
        block.min[0] = _mm256_mul_ps(unit.dmin, _mm256_cvtepi32_ps(m));
      }
    }
  }

  ASHLAR_INLINE void read_block(const uint8_t* p, int half, const Unit& unit, Block& block) {
    read_scales(p + 8 * half, unit, block);
    const uint8_t* planes = p + kLanes * scale_bytes + 32 * half;
    block.codes[0] = codes_of_group<bits, table, 0>(planes);
    block.codes[1] = codes_of_group<bits, table, 1>(planes);
    block.codes[2] = codes_of_group<bits, table, 2>(planes);
    block.codes[3] = codes_of_group<bits, table, 3>(planes);
    block.codes[4] = codes_of_group<bits, table, 4>(planes);
    block.codes[5] = codes_of_group<bits, table, 5>(planes);
    block.codes[6] = codes_of_group<bits, table, 6>(planes);
    block.codes[7] = codes_of_group<bits, table, 7>(planes);
  }
};

template <class S, int first, int count>
ASHLAR_INLINE __m256 dot(const Block& w, const int8_t* x, __m256i sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (S::is_signed) {
    ASHLAR_UNROLL for (int g = first; g < first + count; ++g) {
      const __m256i v = _mm256_sign_epi8(_mm256_set1_epi32(*(const Int32*)(x + 4 * g)), w.codes[g]);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w.codes[g]), v), ones));
    }
  } else {
    constexpr int step = S::groups < count ? S::groups : count;
    ASHLAR_UNROLL for (int g = first; g < first + count; g += step) {
      __m256i words = _mm256_maddubs_epi16(w.codes[g], _mm256_set1_epi32(*(const Int32*)(x + 4 * g)));
      ASHLAR_UNROLL for (int i = g + 1; i < g + step; ++i) words =
          _mm256_add_epi16(words, _mm256_maddubs_epi16(w.codes[i], _mm256_set1_epi32(*(const Int32*)(x + 4 * i))));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, ones));
    }
  }
  return _mm256_cvtepi32_ps(sum);
}

ASHLAR_INLINE __m256 each(const float* p) { return _mm256_broadcast_ss(p); }

// Where the integer sum starts: -offset * sum(x), from the kLift - 128 * sum(x) of the panel.
template <class S>
ASHLAR_INLINE __m256i start(const int32_t* bias) {
  if constexpr (S::offset)
    return _mm256_srai_epi32(_mm256_sub_epi32(_mm256_set1_epi32(*bias), _mm256_set1_epi32(kLift)), 8 - S::bits);
  else
    return _mm256_setzero_si256();
}

// One block times one row, in the order of ref.
template <class S>
ASHLAR_INLINE __m256 accumulate(const Block& w, const PanelBlock* x, int r, __m256 sum) {
  const int8_t* codes = x->codes[r];
  __m256 product;
  if constexpr (S::subs == 2) {
    const __m256 a = dot<S, 0, 4>(w, codes, start<S>(&x->bias_half[0][r]));
    const __m256 b = dot<S, 4, 4>(w, codes, start<S>(&x->bias_half[1][r]));
    product = _mm256_fmadd_ps(b, w.scale[1], _mm256_mul_ps(a, w.scale[0]));
  } else {
    product = _mm256_mul_ps(dot<S, 0, 8>(w, codes, start<S>(&x->bias[r])), w.scale[0]);
  }
  sum = _mm256_fmadd_ps(product, each(&x->scale[r]), sum);
  if constexpr (S::min && S::subs == 2) {
    sum = _mm256_fnmadd_ps(w.min[0], each(&x->sum_half[0][r]), sum);
    sum = _mm256_fnmadd_ps(w.min[1], each(&x->sum_half[1][r]), sum);
  } else if constexpr (S::min) {
    sum = _mm256_fnmadd_ps(w.min[0], each(&x->sum[r]), sum);
  }
  return sum;
}

// R rows from row `first` of the panel, 8 weight rows.
template <class S, int R>
static void multiply(const uint8_t* tile, int half, int units, const PanelBlock* x, int first, int rows, float* y,
                     size_t ldy, __m256i lanes) {
  __m256 sums[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[r] = _mm256_setzero_ps();
  for (int u = 0; u < units; ++u) {
    Unit unit;
    S::read_unit(tile, half, unit);
    tile += S::header;
#pragma clang loop unroll(disable)
    for (int b = 0; b < S::blocks; ++b, ++x, tile += S::block_bytes) {
      Block block;
      S::read_block(tile, half, unit, block);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[r] = accumulate<S>(block, x, first + r, sums[r]);
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) if (r < rows) _mm256_maskstore_ps(y + (size_t)r * ldy, lanes, sums[r]);
}

template <class S>
ASHLAR_INLINE void multiply_half(const MatmulJob* job, const uint8_t* tile, int half, const PanelBlock* x, int rows,
                                 float* y, __m256i lanes) {
  for (int r = 0; r < rows && r < kPanelRows; r += 8, y += 8 * job->ldy) {
    const int left = rows - r;
    if (left > 4)
      multiply<S, 8>(tile, half, job->units, x, r, left, y, job->ldy, lanes);
    else if (left > 2)
      multiply<S, 4>(tile, half, job->units, x, r, left, y, job->ldy, lanes);
    else if (left > 1)
      multiply<S, 2>(tile, half, job->units, x, r, left, y, job->ldy, lanes);
    else
      multiply<S, 1>(tile, half, job->units, x, r, left, y, job->ldy, lanes);
  }
}

template <class S>
static void matmul(const MatmulJob* job) {
  for (int first = 0; first < job->rows; first += kPanelRows) {
    const PanelBlock* x = (const PanelBlock*)((const uint8_t*)job->x + job->panel_bytes * (size_t)(first / kPanelRows));
    for (int o = 0; o < job->outputs; o += 8) {
      const uint8_t* tile = job->tiles + job->tile_bytes * (size_t)(o / kLanes);
      float* y = job->y + (size_t)first * job->ldy + o;
      multiply_half<S>(job, tile, o / 8 % 2, x, job->rows - first, y, lanes_of(job->outputs - o));
    }
  }
}

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

ASHLAR_INLINE int sum_of(__m256i v) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

// Eight values to codes; those that are not finite to zero.
ASHLAR_INLINE __m256i to_codes(__m256 v, __m256 inverse) {
  const __m256 scaled = _mm256_mul_ps(v, inverse);
  const __m256 sane = _mm256_cmp_ps(absolute(scaled), _mm256_set1_ps(127.5f), _CMP_LE_OQ);
  return _mm256_cvtps_epi32(_mm256_and_ps(scaled, sane));
}

// 32 columns of one row.
ASHLAR_INLINE void quantize_block(const float* x, PanelBlock* out, int r) {
  __m256 v[4], most4 = _mm256_setzero_ps();
  ASHLAR_UNROLL for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + 8 * i);
    most4 = _mm256_max_ps(most4, absolute(v[i]));
  }
  const float most = greatest_of(most4);
  if (!(most >= 0x1p-100f)) return;
  const __m256 inverse = _mm256_set1_ps(127.0f / most);
  __m256i c[4];
  ASHLAR_UNROLL for (int i = 0; i < 4; ++i) c[i] = to_codes(v[i], inverse);
  const __m256i a = _mm256_packs_epi32(c[0], c[1]), b = _mm256_packs_epi32(c[2], c[3]);
  const __m256i mixed = _mm256_packs_epi16(a, b);  // fours of the eight: 0 2 4 6 1 3 5 7
  _mm256_storeu_si256((__m256i*)out->codes[r],
                      _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  const int first = sum_of(_mm256_add_epi32(c[0], c[1])), second = sum_of(_mm256_add_epi32(c[2], c[3]));
  const float scale = most / 127.0f;
  out->scale[r] = scale;
  out->bias[r] = kLift - 128 * (first + second);
  out->bias_half[0][r] = kLift - 128 * first;
  out->bias_half[1][r] = kLift - 128 * second;
  out->sum[r] = scale * (float)(first + second);
  out->sum_half[0][r] = scale * (float)first;
  out->sum_half[1][r] = scale * (float)second;
}

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
void matmul_u4z(const MatmulJob* job) { matmul<U4Z>(job); }
void matmul_u8z(const MatmulJob* job) { matmul<U8Z>(job); }
void matmul_i8(const MatmulJob* job) { matmul<I8>(job); }
void matmul_nf4(const MatmulJob* job) { matmul<NF4>(job); }
void matmul_mxfp4(const MatmulJob* job) { matmul<MXFP4>(job); }

void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel) {
  for (int b = 0; b < columns / kBlock; ++b) {
    __m256i* words = (__m256i*)(panel + b);
    for (size_t i = 0; i < sizeof(PanelBlock) / 32; ++i) _mm256_storeu_si256(words + i, _mm256_setzero_si256());
    for (int r = 0; r < kPanelRows; ++r) panel[b].bias[r] = panel[b].bias_half[0][r] = panel[b].bias_half[1][r] = kLift;
    for (int r = 0; r < rows; ++r) quantize_block(x + (size_t)r * ldx + (size_t)(b * kBlock), panel + b, r);
  }
}

}  // namespace ashlar::kernels::avx2
