// Few rows against narrow int8 matrices, AVX2. Weights are widened to 16 bits once for up to two rows.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

// How far ahead weights are fetched: the hardware stops at each 4 KiB.
constexpr size_t kAhead = 4096;

typedef int32_t __attribute__((may_alias, aligned(1))) Pair;

ASHLAR_INLINE __m256i widened(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)); }
ASHLAR_INLINE __m256i plus_products(__m256i sum, __m256i a, __m256i b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

// O outputs of R rows; sixteen sums each, in two vectors.
template <int O, int R>
static void sum_in(const Narrow8Job* job, int o, int row) {
  const size_t stride = (size_t)narrow8_inputs(job->inputs);
  const int blocks = narrow8_blocks(job->inputs);
  const int8_t* weights = job->weights + stride * (size_t)o;
  __m256 sums[O][R][2];
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r][0] = sums[a][r][1] =
      _mm256_setzero_ps();
  for (int b = 0; b < blocks; ++b) {
    const int left = (int)stride - b * kNarrow8Block, end = left < kNarrow8Block ? left : kNarrow8Block;
    __m256i lanes[O][R][2];
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[a][r][0] =
        lanes[a][r][1] = _mm256_setzero_si256();
#pragma clang loop unroll(disable)
    for (int i = b * kNarrow8Block; i < b * kNarrow8Block + end; i += 32) {
      ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
        __m256i v[R];
        ASHLAR_UNROLL for (int r = 0; r < R; ++r) v[r] =
            _mm256_loadu_si256((const __m256i*)(job->x[row + r] + i + h * 16));
        ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
          const int8_t* p = weights + stride * (size_t)a + i + h * 16;
          if (h == 0) _mm_prefetch((const char*)(p + O * stride), _MM_HINT_T0);
          const __m256i w = widened(p);
          ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[a][r][h] = plus_products(lanes[a][r][h], w, v[r]);
        }
      }
    }
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
      const __m256 scale = _mm256_set1_ps(job->scales[(size_t)(o + a) * (size_t)blocks + (size_t)b]);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int h = 0; h < 2; ++h) sums[a][r][h] =
          _mm256_fmadd_ps(_mm256_cvtepi32_ps(lanes[a][r][h]), scale, sums[a][r][h]);
    }
  }
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) job->y[row + r][o + a] =
      sum_by_halves(sums[a][r][0], sums[a][r][1]) * job->x_scale[row + r];
}

// A tile of outputs and R rows.
template <int R>
static void sum_out(const Narrow8Job* job, int o, int row) {
  const int8_t* tile = job->weights + (size_t)narrow8_tile_bytes(job->inputs) * (size_t)(o / kLanes);
  const int8_t* weights = tile + 2 * kLanes;
  __m256i lanes[2][R];
  ASHLAR_UNROLL for (int h = 0; h < 2; ++h) ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[h][r] =
      _mm256_setzero_si256();
#pragma clang loop unroll(disable)
  for (int i = 0; i < job->inputs; i += 2, weights += 2 * kLanes) {
    _mm_prefetch((const char*)weights + kAhead, _MM_HINT_T0);
    const __m256i low = widened(weights), high = widened(weights + kLanes);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m256i pair = _mm256_set1_epi32(*(const Pair*)(job->x[row + r] + i));
      lanes[0][r] = plus_products(lanes[0][r], low, pair);
      lanes[1][r] = plus_products(lanes[1][r], high, pair);
    }
  }
  ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
    const __m256i there = lanes_of(job->outputs - o - h * 8);
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)tile + h));
    const __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      float* y = job->y[row + r] + o + h * 8;
      const __m256 scale = _mm256_mul_ps(scales, _mm256_set1_ps(job->x_scale[row + r]));
      const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(lanes[h][r]), scale, _mm256_maskload_ps(y, there));
      _mm256_maskstore_ps(y, there, sum);
    }
  }
}

template <int O>
static void in_rows(const Narrow8Job* job, int o) {
  int row = 0;
  for (; row + 2 <= job->rows; row += 2) sum_in<O, 2>(job, o, row);
  if (row < job->rows) sum_in<O, 1>(job, o, row);
}

static void all_in(const Narrow8Job* job) {
  int o = 0;
  for (; o + 2 <= job->outputs; o += 2) in_rows<2>(job, o);
  if (o < job->outputs) in_rows<1>(job, o);
}

static void all_out(const Narrow8Job* job) {
  for (int o = 0; o < job->outputs; o += kLanes) {
    int row = 0;
    for (; row + 2 <= job->rows; row += 2) sum_out<2>(job, o, row);
    if (row < job->rows) sum_out<1>(job, o, row);
  }
}

}  // namespace

void narrow8_in(const Narrow8Job* jobs, int count) {
  for (int i = 0; i < count; ++i) all_in(jobs + i);
}

void narrow8_out(const Narrow8Job* jobs, int count) {
  for (int i = 0; i < count; ++i) all_out(jobs + i);
}

float narrow_codes(const float* x, int n, int top, int16_t* codes) {
  __m256 most = _mm256_setzero_ps();
  for (int i = 0; i < n; i += 8) most = _mm256_max_ps(absolute(_mm256_maskload_ps(x + i, lanes_of(n - i))), most);
  const float greatest = greatest_of(most);
  const int some = greatest >= 0x1p-100f;
  const __m256 inverse = _mm256_set1_ps(some ? (float)top / greatest : 0.0f), limit = _mm256_set1_ps((float)top + 0.5f);
  for (int i = 0; i < narrow8_inputs(n); i += 16) {
    __m256i halves[2];
    ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
      const __m256 v = _mm256_maskload_ps(x + i + h * 8, lanes_of(n - i - h * 8));
      const __m256 scaled = _mm256_mul_ps(v, inverse);
      const __m256 finite = _mm256_cmp_ps(absolute(scaled), limit, _CMP_LE_OQ);
      halves[h] = _mm256_and_si256(_mm256_castps_si256(finite), _mm256_cvtps_epi32(scaled));
    }
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(halves[0], halves[1]), 0xd8);
    _mm256_storeu_si256((__m256i*)(codes + i), both);
  }
  return some ? greatest / (float)top : 0.0f;
}

}  // namespace ashlar::kernels::avx2
