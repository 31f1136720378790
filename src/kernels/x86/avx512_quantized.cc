// Products of quantized weights, AVX-512 with VNNI. One tile of 16 weight rows at
// a time: its codes are widened to bytes in eight registers and meet up to 16 rows
// of activations, four columns at a time, broadcast from memory (vpdpbusd).
// Codes with an offset have it at 128; the activations bring -128 * sum(x) along,
// and the integer sum starts there, lifted so that it is a float without conversion.
#include <immintrin.h>

#include "kernels/x86/avx512_blocks.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

ASHLAR_INLINE __m512 each(const float* p) { return _mm512_set1_ps(*p); }

// The integer sum as a lifted float.
template <int first, int count>
ASHLAR_INLINE __m512 dot(const Block& w, const int8_t* x, __m512i sum) {
  ASHLAR_UNROLL for (int g = first; g < first + count; ++g) sum =
      _mm512_dpbusd_epi32(sum, w.codes[g], _mm512_set1_epi32(*(const Int32*)(x + 4 * g)));
  return _mm512_castsi512_ps(sum);
}

// One block times one row, in the order of ref.
template <class S>
ASHLAR_INLINE __m512 accumulate(const Block& w, const PanelBlock* x, int r, __m512 sum) {
  const int8_t* codes = x->codes[r];
  const __m512i lift = _mm512_set1_epi32(kLift);
  __m512 product;
  if constexpr (S::subs == 2) {
    const __m512 a = dot<0, 4>(w, codes, S::offset ? _mm512_set1_epi32(x->bias_half[0][r]) : lift);
    const __m512 b = dot<4, 4>(w, codes, S::offset ? _mm512_set1_epi32(x->bias_half[1][r]) : lift);
    product = _mm512_fmadd_ps(_mm512_sub_ps(b, _mm512_set1_ps(kLiftValue)), w.scale[1],
                              _mm512_fmadd_ps(a, w.scale[0], w.drop));
  } else {
    product =
        _mm512_fmadd_ps(dot<0, 8>(w, codes, S::offset ? _mm512_set1_epi32(x->bias[r]) : lift), w.scale[0], w.drop);
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
static void multiply(const uint8_t* tile, int units, const PanelBlock* x, int rows, float* y, size_t ldy,
                     __mmask16 lanes) {
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
        ASHLAR_UNROLL for (int i = 0; i < S::block_bytes; i += 64)
            _mm_prefetch((const char*)tile + kAhead + i, _MM_HINT_T0);
      S::read_block(tile, unit, block);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[r] = accumulate<S>(block, x, r, sums[r]);
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) if (r < rows) _mm512_mask_storeu_ps(y + (size_t)r * ldy, lanes, sums[r]);
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
      if (rows > 12)
        multiply<S, 16>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 8)
        multiply<S, 12>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 6)
        multiply<S, 8>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 4)
        multiply<S, 6>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 3)
        multiply<S, 4>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 2)
        multiply<S, 3>(tile, job->units, x, rows, y, job->ldy, lanes);
      else if (rows > 1)
        multiply<S, 2>(tile, job->units, x, rows, y, job->ldy, lanes);
      else
        multiply<S, 1>(tile, job->units, x, rows, y, job->ldy, lanes);
    }
  }
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
  out->bias[r] = kLift - 128 * (first + second);
  out->bias_half[0][r] = kLift - 128 * first;
  out->bias_half[1][r] = kLift - 128 * second;
  out->sum[r] = scale * (float)(first + second);
  out->sum_half[0][r] = scale * (float)first;
  out->sum_half[1][r] = scale * (float)second;
}

}  // namespace

void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel) {
  for (int b = 0; b < columns / kBlock; ++b) {
    __m512i* words = (__m512i*)(panel + b);
    for (size_t i = 0; i < sizeof(PanelBlock) / 64; ++i) _mm512_storeu_si512(words + i, _mm512_setzero_si512());
    for (int r = 0; r < kPanelRows; ++r) panel[b].bias[r] = panel[b].bias_half[0][r] = panel[b].bias_half[1][r] = kLift;
    for (int r = 0; r < rows; ++r) quantize_block(x + (size_t)r * ldx + (size_t)(b * kBlock), panel + b, r);
  }
}

}  // namespace ashlar::kernels::avx512
