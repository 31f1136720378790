// Products of F32, F16 and BF16 weights with f32 activations, AVX-512. Up to three
// or four tiles of 16 weight rows meet up to 8 rows of activations; the sum over
// columns is one chain of fused multiply-adds for each element of the result.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

// How far ahead weights are fetched: the hardware stops at each 4 KiB.
constexpr int kAhead = 4096;

// Two consecutive columns of a tile.
template <Format format>
ASHLAR_INLINE void read_pair(const uint8_t* tile, __m512& a, __m512& b) {
  if constexpr (format == kF32) {
    a = _mm512_loadu_ps(tile);
    b = _mm512_loadu_ps(tile + 64);
  } else if constexpr (format == kF16) {
    a = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)tile));
    b = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(tile + 32)));
  } else {  // a lane's pair stands in one word
    const __m512i both = _mm512_loadu_si512(tile);
    a = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    b = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
  }
}

template <Format format, int R, int T>
static void multiply(const MatmulJob* job, const uint8_t* tile, const float* x, int rows, float* y, int outputs) {
  constexpr int size = format == kF32 ? 4 : 2;
  const int columns = job->units;
  __m512 sums[T][R];
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[t][r] = _mm512_setzero_ps();
  int k = 0;
#pragma clang loop unroll(disable)
  for (; k + 2 <= columns; k += 2, tile += 2 * kLanes * size, x += 2 * R) {
    __m512 a[T], b[T];
    ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
      const uint8_t* p = tile + job->tile_bytes * (size_t)t;
      read_pair<format>(p, a[t], b[t]);
      _mm_prefetch((const char*)p + kAhead, _MM_HINT_T0);
      if constexpr (format == kF32) _mm_prefetch((const char*)p + kAhead + 64, _MM_HINT_T0);
    }
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512 v = _mm512_set1_ps(x[r]);
      ASHLAR_UNROLL for (int t = 0; t < T; ++t) sums[t][r] = _mm512_fmadd_ps(a[t], v, sums[t][r]);
    }
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512 v = _mm512_set1_ps(x[R + r]);
      ASHLAR_UNROLL for (int t = 0; t < T; ++t) sums[t][r] = _mm512_fmadd_ps(b[t], v, sums[t][r]);
    }
  }
  if (format != kBF16 && k < columns) {  // BF16 is padded to pairs
    ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
      const uint8_t* p = tile + job->tile_bytes * (size_t)t;
      const __m512 a = format == kF32 ? _mm512_loadu_ps(p) : _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[t][r] = _mm512_fmadd_ps(a, _mm512_set1_ps(x[r]), sums[t][r]);
    }
  }
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
    const int left = outputs - t * kLanes;
    const __mmask16 lanes = left >= kLanes ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) if (r < rows)
        _mm512_mask_storeu_ps(y + (size_t)r * job->ldy + t * kLanes, lanes, sums[t][r]);
  }
}

// All rows of one or more tiles that are multiplied together.
template <Format format, int T>
static void multiply_rows(const MatmulJob* job, const uint8_t* tile, float* y, int outputs) {
  const uint8_t* panel = (const uint8_t*)job->x;
  for (int first = 0; first < job->rows; first += kFloatPanelRows, panel += job->panel_bytes) {
    const int rows = job->rows - first;
    float* out = y + (size_t)first * job->ldy;
    const float* x = (const float*)panel;
    if (rows >= 5)
      multiply<format, 8, T>(job, tile, x, rows, out, outputs);
    else if (rows >= 3)
      multiply<format, 4, T>(job, tile, x, rows, out, outputs);
    else if (rows == 2)
      multiply<format, 2, T>(job, tile, x, rows, out, outputs);
    else
      multiply<format, 1, T>(job, tile, x, rows, out, outputs);
  }
}

template <Format format>
static void matmul(const MatmulJob* job) {
  const uint8_t* tile = job->tiles;
  int o = 0;
  for (; job->outputs - o > 2 * kLanes; o += 3 * kLanes, tile += 3 * job->tile_bytes)
    multiply_rows<format, 3>(job, tile, job->y + o, job->outputs - o);
  for (; job->outputs - o > kLanes; o += 2 * kLanes, tile += 2 * job->tile_bytes)
    multiply_rows<format, 2>(job, tile, job->y + o, job->outputs - o);
  if (o < job->outputs) multiply_rows<format, 1>(job, tile, job->y + o, job->outputs - o);
}

}  // namespace

void matmul_f32(const MatmulJob* job) { matmul<kF32>(job); }
void matmul_f16(const MatmulJob* job) { matmul<kF16>(job); }
void matmul_bf16(const MatmulJob* job) { matmul<kBF16>(job); }

}  // namespace ashlar::kernels::avx512
