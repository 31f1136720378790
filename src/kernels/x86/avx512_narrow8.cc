// Few rows against narrow int8 matrices, AVX-512 VNNI. Weights are read once for up to four rows, in four streams, and
// widened to 16 bits.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

// How far ahead weights are fetched, see avx512_narrow.cc.
constexpr size_t kAhead = 2048;

ASHLAR_INLINE __m512i widened(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }

// The compiler would take the intrinsic apart, into a product and a sum.
ASHLAR_INLINE __m512i plus_products(__m512i sum, __m512i a, __m512i b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

ASHLAR_INLINE __mmask16 lanes_of(int left) {
  return left >= 16 ? (__mmask16)0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : (__mmask16)0;
}

// O outputs of R rows, `apart` from one another.
template <int O, int R>
static void sum_in(const Narrow8Job* job, int o, int apart, int row) {
  const size_t stride = (size_t)narrow8_inputs(job->inputs);
  const int blocks = narrow8_blocks(job->inputs);
  const int8_t* weights = job->weights + stride * (size_t)o;
  const int16_t* x[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[r] = job->x[row + r];
  __m512 sums[O][R];
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r] = _mm512_setzero_ps();
#pragma clang loop unroll(disable)
  for (int b = 0; b < blocks; ++b) {
    const int end = least((b + 1) * kNarrow8Block, (int)stride);
    __m512i lanes[O][R];
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[a][r] =
        _mm512_setzero_si512();
#pragma clang loop unroll(disable)
    for (int i = b * kNarrow8Block; i < end; i += 64) {
      __m512i v[R][2];
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int h = 0; h < 2; ++h) v[r][h] =
          _mm512_loadu_si512(x[r] + i + h * 32);
      ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
        const int8_t* p = weights + stride * (size_t)(a * apart) + i;
        _mm_prefetch((const char*)(p + kAhead), _MM_HINT_T0);
        ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
          const __m512i w = widened(p + h * 32);
          ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[a][r] = plus_products(lanes[a][r], w, v[r][h]);
        }
      }
    }
    ASHLAR_UNROLL for (int a = 0; a < O; ++a) {
      const __m512 scale = _mm512_set1_ps(job->scales[(size_t)(o + a * apart) * (size_t)blocks + (size_t)b]);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[a][r] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes[a][r]), scale, sums[a][r]);
    }
  }
  ASHLAR_UNROLL for (int a = 0; a < O; ++a) ASHLAR_UNROLL for (int r = 0; r < R; ++r) job->y[row + r][o + a * apart] =
      sum_by_halves(sums[a][r]) * job->x_scale[row + r];
}

// T tiles of outputs, `apart` outputs from one another, and R rows.
template <int T, int R>
static void sum_out(const Narrow8Job* job, int o, int apart, int row) {
  const size_t size = (size_t)narrow8_tile_bytes(job->inputs);
  const int8_t* tile[T];
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) tile[t] = job->weights + size * (size_t)((o + t * apart) / kLanes);
  const int16_t* x[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[r] = job->x[row + r];
  __m512i lanes[T][R];
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[t][r] =
      _mm512_setzero_si512();
  __m512 scales[T];
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)tile[t]));
    scales[t] = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    tile[t] += 2 * kLanes;
  }
#pragma clang loop unroll(disable)
  for (int i = 0; i < job->inputs; i += 2) {
    __m512i w[T];
    ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
      const int8_t* p = tile[t] + i * kLanes;
      _mm_prefetch((const char*)(p + kAhead), _MM_HINT_T0);
      w[t] = widened(p);
    }
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512i pair = _mm512_set1_epi32(*(const Int32*)(x[r] + i));
      ASHLAR_UNROLL for (int t = 0; t < T; ++t) lanes[t][r] = plus_products(lanes[t][r], w[t], pair);
    }
  }
  ASHLAR_UNROLL for (int t = 0; t < T; ++t) {
    const int left = job->outputs - o - t * apart;
    const __mmask16 there = left >= kLanes ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      float* y = job->y[row + r] + o + t * apart;
      const __m512 scale = _mm512_mul_ps(scales[t], _mm512_set1_ps(job->x_scale[row + r]));
      const __m512 sum = _mm512_cvtepi32_ps(lanes[t][r]);
      _mm512_mask_storeu_ps(y, there, _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(there, y)));
    }
  }
}

template <int O>
static void in_rows(const Narrow8Job* job, int o, int apart) {
  int row = 0;
  for (; row + 4 <= job->rows; row += 4) sum_in<O, 4>(job, o, apart, row);
  if (row + 2 <= job->rows) {
    sum_in<O, 2>(job, o, apart, row);
    row += 2;
  }
  if (row < job->rows) sum_in<O, 1>(job, o, apart, row);
}

template <int T>
static void out_rows(const Narrow8Job* job, int o, int apart) {
  int row = 0;
  for (; row + 4 <= job->rows; row += 4) sum_out<T, 4>(job, o, apart, row);
  if (row + 2 <= job->rows) {
    sum_out<T, 2>(job, o, apart, row);
    row += 2;
  }
  if (row < job->rows) sum_out<T, 1>(job, o, apart, row);
}

static void all_in(const Narrow8Job* job) {
  const int quarter = job->outputs / 4;
  for (int o = 0; o < quarter; ++o) in_rows<4>(job, o, quarter);
  for (int o = 4 * quarter; o < job->outputs; ++o) in_rows<1>(job, o, 0);
}

static void all_out(const Narrow8Job* job) {
  const int quarter = job->outputs / kLanes / 4 * kLanes;
  for (int o = 0; o < quarter; o += kLanes) out_rows<4>(job, o, quarter);
  for (int o = 4 * quarter; o < job->outputs; o += kLanes) out_rows<1>(job, o, 0);
}

// ---- Four jobs side by side ----

constexpr int kAbreast = 4;
// Jobs of more rows have enough to do with what comes from memory.
constexpr int kAbreastRows = 4;

// Row `row` of a job, or what stands for one that is not there.
ASHLAR_INLINE const int16_t* x_of(const Narrow8Job& job, int row) { return job.x[row < job.rows ? row : 0]; }

// Output o of R rows of each.
template <int R>
static void in_abreast(const Narrow8Job* jobs, int o, int row) {
  const size_t stride = (size_t)narrow8_inputs(jobs->inputs);
  const int blocks = narrow8_blocks(jobs->inputs);
  const int8_t* weights[kAbreast];
  const int16_t* x[kAbreast][R];
  __m512 sums[kAbreast][R];
  ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) {
    weights[j] = jobs[j].weights + stride * (size_t)o;
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[j][r] = x_of(jobs[j], row + r);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[j][r] = _mm512_setzero_ps();
  }
#pragma clang loop unroll(disable)
  for (int b = 0; b < blocks; ++b) {
    const int end = least((b + 1) * kNarrow8Block, (int)stride);
    __m512i lanes[kAbreast][R];
    ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[j][r] =
        _mm512_setzero_si512();
#pragma clang loop unroll(disable)
    for (int i = b * kNarrow8Block; i < end; i += 64) ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) {
        _mm_prefetch((const char*)(weights[j] + i + kAhead), _MM_HINT_T0);
        ASHLAR_UNROLL for (int h = 0; h < 64; h += 32) {
          const __m512i w = widened(weights[j] + i + h);
          ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[j][r] =
              plus_products(lanes[j][r], w, _mm512_loadu_si512(x[j][r] + i + h));
        }
      }
    ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) {
      const __m512 scale = _mm512_set1_ps(jobs[j].scales[(size_t)o * (size_t)blocks + (size_t)b]);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[j][r] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(lanes[j][r]), scale, sums[j][r]);
    }
  }
  ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) ASHLAR_UNROLL for (int r = 0; r < R; ++r) if (row + r < jobs[j].rows)
      jobs[j]
          .y[row + r][o] = sum_by_halves(sums[j][r]) * jobs[j].x_scale[row + r];
}

// A tile of outputs of R rows of each.
template <int R>
static void out_abreast(const Narrow8Job* jobs, int o, int row) {
  const size_t tile = (size_t)narrow8_tile_bytes(jobs->inputs) * (size_t)(o / kLanes);
  const int8_t* weights[kAbreast];
  const int16_t* x[kAbreast][R];
  __m512i lanes[kAbreast][R];
  ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) {
    weights[j] = jobs[j].weights + tile + 2 * kLanes;
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[j][r] = x_of(jobs[j], row + r);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[j][r] = _mm512_setzero_si512();
  }
#pragma clang loop unroll(disable)
  for (int i = 0; i < jobs->inputs; i += 2) ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) {
      const int8_t* p = weights[j] + i * kLanes;
      _mm_prefetch((const char*)(p + kAhead), _MM_HINT_T0);
      const __m512i w = widened(p);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[j][r] =
          plus_products(lanes[j][r], w, _mm512_set1_epi32(*(const Int32*)(x[j][r] + i)));
    }
  const __mmask16 there = lanes_of(jobs->outputs - o);
  ASHLAR_UNROLL for (int j = 0; j < kAbreast; ++j) {
    const __m256i halves = _mm256_loadu_si256((const __m256i*)(jobs[j].weights + tile));
    const __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) if (row + r < jobs[j].rows) {
      float* y = jobs[j].y[row + r] + o;
      const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(jobs[j].x_scale[row + r]));
      const __m512 sum = _mm512_cvtepi32_ps(lanes[j][r]);
      _mm512_mask_storeu_ps(y, there, _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(there, y)));
    }
  }
}

// The most rows of the next kAbreast jobs, or 0: they do not go together.
static int rows_abreast(const Narrow8Job* jobs, int count) {
  if (count < kAbreast) return 0;
  int rows = 0;
  for (int j = 0; j < kAbreast; ++j) {
    if (jobs[j].inputs != jobs->inputs || jobs[j].outputs != jobs->outputs) return 0;
    rows = most(rows, jobs[j].rows);
  }
  return rows <= kAbreastRows ? rows : 0;
}

}  // namespace

void narrow8_in(const Narrow8Job* jobs, int count) {
  while (count > 0) {
    const int rows = rows_abreast(jobs, count), taken = rows > 0 ? kAbreast : 1;
    if (rows == 0) all_in(jobs);
    for (int o = 0; rows > 0 && o < jobs->outputs; ++o)
      for (int row = 0; row < rows; row += 2)
        row + 1 < rows ? in_abreast<2>(jobs, o, row) : in_abreast<1>(jobs, o, row);
    jobs += taken;
    count -= taken;
  }
}

void narrow8_out(const Narrow8Job* jobs, int count) {
  while (count > 0) {
    const int rows = rows_abreast(jobs, count), taken = rows > 0 ? kAbreast : 1;
    if (rows == 0) all_out(jobs);
    for (int o = 0; rows > 0 && o < jobs->outputs; o += kLanes)
      for (int row = 0; row < rows; row += 2)
        row + 1 < rows ? out_abreast<2>(jobs, o, row) : out_abreast<1>(jobs, o, row);
    jobs += taken;
    count -= taken;
  }
}

float narrow_codes(const float* x, int n, int top, int16_t* codes) {
  __m512 most[4];
  ASHLAR_UNROLL for (int k = 0; k < 4; ++k) most[k] = _mm512_setzero_ps();
  int done = 0;
  for (; done + 64 <= n; done += 64)
    ASHLAR_UNROLL for (int k = 0; k < 4; ++k) most[k] =
        _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + done + k * 16)), most[k]);
  for (int i = done; i < n; i += 64)
    ASHLAR_UNROLL for (int k = 0; k < 4; ++k) most[k] =
        _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_of(n - i - k * 16), x + i + k * 16)), most[k]);
  const float greatest =
      _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3])));
  const int some = greatest >= 0x1p-100f;
  const __m512 inverse = _mm512_set1_ps(some ? (float)top / greatest : 0.0f), limit = _mm512_set1_ps((float)top + 0.5f);
  for (int i = 0; i < narrow8_inputs(n); i += 16) {
    const __m512 v = i + 16 <= n ? _mm512_loadu_ps(x + i) : _mm512_maskz_loadu_ps(lanes_of(n - i), x + i);
    const __m512 scaled = _mm512_mul_ps(v, inverse);
    const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(scaled), limit, _CMP_LE_OQ);
    _mm256_storeu_si256((__m256i*)(codes + i), _mm512_cvtepi32_epi16(_mm512_maskz_cvtps_epi32(finite, scaled)));
  }
  return some ? greatest / (float)top : 0.0f;
}

}  // namespace ashlar::kernels::avx512
