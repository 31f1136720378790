// Few rows against narrow bf16 matrices, AVX-512. Weights are read once, in four streams, and widened
// once for up to four rows.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

// How far ahead weights are fetched: the hardware stops at each 4 KiB. Four streams, a quarter apart, keep more lines
// in flight than one.
constexpr size_t kAhead = 1024;  // weights

ASHLAR_INLINE __m512 widened(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

// O outputs of R rows, `apart` from one another.
template <int O, int R>
static void sum_in(const NarrowJob* job, int o, int apart, int row) {
  const size_t stride = (size_t)narrow_inputs(job->inputs);
  const uint16_t* weights = job->weights + stride * (size_t)o;
  const float* x[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[r] = job->x[row + r];
  __m512 sums[O][R];
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r] = _mm512_setzero_ps();
  int i = 0;
#pragma clang loop unroll(disable)
  for (; i + kLanes <= job->inputs; i += kLanes) {
    __m512 v[R];
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) v[r] = _mm512_loadu_ps(x[r] + i);
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
      const uint16_t* p = weights + stride * (size_t)(a * apart) + i;
      _mm_prefetch((const char*)(p + kAhead), _MM_HINT_T0);
      const __m512 w = widened(p);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r] = _mm512_fmadd_ps(w, v[r], sums[a][r]);
    }
  }
  if (i < job->inputs) {
    const __mmask16 lanes = (__mmask16)((1u << (job->inputs - i)) - 1);
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
      const __m512 w = widened(weights + stride * (size_t)(a * apart) + i);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r] =
          _mm512_fmadd_ps(w, _mm512_maskz_loadu_ps(lanes, x[r] + i), sums[a][r]);
    }
  }
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) job->y[row + r][o + a * apart] =
      sum_by_halves(sums[a][r]) * job->scale;
}

template <int O>
static void in_rows(const NarrowJob* job, int o, int apart) {
  int row = 0;
  for (; row + 4 <= job->rows; row += 4) sum_in<O, 4>(job, o, apart, row);
  if (row + 2 <= job->rows) {
    sum_in<O, 2>(job, o, apart, row);
    row += 2;
  }
  if (row < job->rows) sum_in<O, 1>(job, o, apart, row);
}

// T tiles of outputs, `apart` outputs from one another, and R rows.
template <int T, int R>
static void sum_out(const NarrowJob* job, int o, int apart, int row) {
  const size_t size = (size_t)job->inputs * kLanes;
  const uint16_t* tile = job->weights + size * (size_t)(o / kLanes);
  const float* x[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[r] = job->x[row + r];
  __m512 sums[T][R];
  __mmask16 lanes[T];
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
    const int left = job->outputs - o - t * apart;
    lanes[t] = left >= kLanes ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[t][r] =
        _mm512_maskz_loadu_ps(lanes[t], job->y[row + r] + o + t * apart);
  }
#pragma clang loop unroll(disable)
  for (int i = 0; i < job->inputs; i += 2, tile += 2 * kLanes) {
    __m512 even[T], odd[T];
    ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
      const uint16_t* p = tile + size * (size_t)(t * apart / kLanes);
      _mm_prefetch((const char*)(p + kAhead), _MM_HINT_T0);
      const __m512i both = _mm512_loadu_si512(p);
      even[t] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
      odd[t] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
    }
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512 a = _mm512_set1_ps(x[r][i]), b = _mm512_set1_ps(x[r][i + 1]);
      ASHLAR_UNROLL for (int t = 0; t < T; ++t) sums[t][r] = _mm512_fmadd_ps(even[t], a, sums[t][r]);
      ASHLAR_UNROLL for (int t = 0; t < T; ++t) sums[t][r] = _mm512_fmadd_ps(odd[t], b, sums[t][r]);
    }
  }
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) ASHLAR_UNROLL for (int r = 0; r < R; ++r)
      _mm512_mask_storeu_ps(job->y[row + r] + o + t * apart, lanes[t], sums[t][r]);
}

template <int T>
static void out_rows(const NarrowJob* job, int o, int apart) {
  int row = 0;
  for (; row + 4 <= job->rows; row += 4) sum_out<T, 4>(job, o, apart, row);
  if (row + 2 <= job->rows) {
    sum_out<T, 2>(job, o, apart, row);
    row += 2;
  }
  if (row < job->rows) sum_out<T, 1>(job, o, apart, row);
}

}  // namespace

void narrow_in(const NarrowJob* job) {
  const int quarter = job->outputs / 4;
  for (int o = 0; o < quarter; ++o) in_rows<4>(job, o, quarter);
  for (int o = 4 * quarter; o < job->outputs; ++o) in_rows<1>(job, o, 0);
}

void narrow_out(const NarrowJob* job) {
  const int quarter = job->outputs / kLanes / 4 * kLanes;
  for (int o = 0; o < quarter; o += kLanes) out_rows<4>(job, o, quarter);
  for (int o = 4 * quarter; o < job->outputs; o += kLanes) out_rows<1>(job, o, 0);
}

}  // namespace ashlar::kernels::avx512
