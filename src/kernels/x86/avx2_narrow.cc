// Few rows against narrow bf16 matrices, AVX2. Weights are read once, in the order in which they lie, and widened once
// for up to two rows.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

// How far ahead weights are fetched: the hardware stops at each 4 KiB.
constexpr size_t kAhead = 4096;

ASHLAR_INLINE __m256 widened(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}

// O outputs of R rows; sixteen sums each, in two vectors.
template <int O, int R>
static void sum_in(const NarrowJob* job, int o, int row) {
  const size_t stride = (size_t)narrow_inputs(job->inputs);
  const uint16_t* weights = job->weights + stride * (size_t)o;
  const float* x[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[r] = job->x[row + r];
  __m256 sums[O][R][2];
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r][0] = sums[a][r][1] =
      _mm256_setzero_ps();
#pragma clang loop unroll(disable)
  for (int i = 0; i < job->inputs; i += kLanes) {
    const __m256i low = lanes_of(job->inputs - i), high = lanes_of(job->inputs - i - 8);
    __m256 v[R][2];
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      v[r][0] = _mm256_maskload_ps(x[r] + i, low);
      v[r][1] = _mm256_maskload_ps(x[r] + i + 8, high);
    }
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
      const uint16_t* p = weights + stride * (size_t)a + i;
      _mm_prefetch((const char*)(p + O * stride), _MM_HINT_T0);
      const __m256 u = widened(p), w = widened(p + 8);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
        sums[a][r][0] = _mm256_fmadd_ps(u, v[r][0], sums[a][r][0]);
        sums[a][r][1] = _mm256_fmadd_ps(w, v[r][1], sums[a][r][1]);
      }
    }
  }
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) job->y[row + r][o + a] =
      sum_by_halves(sums[a][r][0], sums[a][r][1]) * job->scale;
}

template <int O>
static void in_rows(const NarrowJob* job, int o) {
  int row = 0;
  for (; row + 2 <= job->rows; row += 2) sum_in<O, 2>(job, o, row);
  if (row < job->rows) sum_in<O, 1>(job, o, row);
}

// T tiles of outputs and R rows.
template <int T, int R>
static void sum_out(const NarrowJob* job, int o, int row) {
  const size_t size = (size_t)job->inputs * kLanes;
  const uint16_t* tile = job->weights + size * (size_t)(o / kLanes);
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  __m256 sums[2 * T][R];
  __m256i lanes[2 * T];
  ASHLAR_UNROLL for (int t = 0; t < 2 * T; ++t) {
    lanes[t] = lanes_of(job->outputs - o - t * 8);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[t][r] = _mm256_maskload_ps(job->y[row + r] + o + t * 8, lanes[t]);
  }
#pragma clang loop unroll(disable)
  for (int i = 0; i < job->inputs; i += 2, tile += 2 * kLanes) {
    ASHLAR_UNROLL for (int t = 0; t < 2 * T; ++t) {
      const uint16_t* p = tile + size * (size_t)(t / 2) + t % 2 * kLanes;
      if (t % 2 == 0) _mm_prefetch((const char*)p + kAhead, _MM_HINT_T0);
      const __m256i both = _mm256_loadu_si256((const __m256i*)p);
      const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
      const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(both, upper));
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
        sums[t][r] = _mm256_fmadd_ps(even, _mm256_broadcast_ss(job->x[row + r] + i), sums[t][r]);
        sums[t][r] = _mm256_fmadd_ps(odd, _mm256_broadcast_ss(job->x[row + r] + i + 1), sums[t][r]);
      }
    }
  }
  ASHLAR_UNROLL for (int t = 0; t < 2 * T; ++t) ASHLAR_UNROLL for (int r = 0; r < R; ++r)
      _mm256_maskstore_ps(job->y[row + r] + o + t * 8, lanes[t], sums[t][r]);
}

template <int T>
static void out_rows(const NarrowJob* job, int o) {
  int row = 0;
  for (; row + 2 <= job->rows; row += 2) sum_out<T, 2>(job, o, row);
  if (row < job->rows) sum_out<T, 1>(job, o, row);
}

}  // namespace

void narrow_in(const NarrowJob* job) {
  int o = 0;
  for (; o + 2 <= job->outputs; o += 2) in_rows<2>(job, o);
  if (o < job->outputs) in_rows<1>(job, o);
}

void narrow_out(const NarrowJob* job) {
  int o = 0;
  for (; job->outputs - o > kLanes; o += 2 * kLanes) out_rows<2>(job, o);
  if (o < job->outputs) out_rows<1>(job, o);
}

}  // namespace ashlar::kernels::avx2
