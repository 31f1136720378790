// Few rows against narrow int8 matrices, AVX-512 VNNI. Weights are read once for some rows, in four streams where there
// are as many: several from memory are faster than one.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

constexpr int kStreams = 4;
// How far ahead weights are fetched: the hardware stops at each 4 KiB. So much of each job is asked for before any.
constexpr size_t kAhead = 2048;

// A tile of a job's outputs, from `output` on.
struct Stream {
  const Narrow8Job* job;
  int output;
};

ASHLAR_INLINE __mmask16 lanes_of(int left) {
  return left >= 16 ? (__mmask16)0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : (__mmask16)0;
}

// As an instruction of its own, whatever the compiler would make of the intrinsic.
ASHLAR_INLINE __m512i plus_products(__m512i sum, __m512i weights, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
  return sum;
}

ASHLAR_INLINE size_t code_bytes(const Narrow8Job* job) {
  return (size_t)job->outputs * (size_t)narrow8_inputs(job->inputs);
}

static void fetch(const Narrow8Job* job) {
  const size_t codes = code_bytes(job), scales = (size_t)(job->outputs * narrow8_blocks(job->inputs)) * 2;
  for (size_t i = 0; i < codes && i < kAhead; i += kLineBytes) _mm_prefetch((const char*)job->weights + i, _MM_HINT_T0);
  for (size_t i = 0; i < scales && i < kAhead / 4; i += kLineBytes)
    _mm_prefetch((const char*)job->scales + i, _MM_HINT_T0);
}

// bf16 scales of a tile's outputs.
ASHLAR_INLINE __m512 scales_at(const uint16_t* p, int width) {
  const __m256i halves = _mm256_maskz_loadu_epi16(lanes_of(width), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Row `row` of a job, or what stands for one that is not there.
ASHLAR_INLINE size_t row_or_first(const Narrow8Job* job, int row) { return (size_t)(row < job->rows ? row : 0); }

// S tiles of equal inputs and lanes, and R rows.
template <int S, int R>
static void multiply(const Stream* streams, int row) {
  const int inputs = narrow8_inputs(streams->job->inputs), blocks = narrow8_blocks(inputs);
  const int width = least(kLanes, streams->job->outputs - streams->output);
  const __mmask16 there = lanes_of(width);
  const size_t ahead = code_bytes(streams->job) > kAhead ? kAhead : 0;
  const uint8_t* weights[S];
  const int8_t* x[S][R];
  __m512 sums[S][R];
  ASHLAR_UNROLL for (int s = 0; s < S; ++s) {
    const Narrow8Job* job = streams[s].job;
    weights[s] = job->weights + (size_t)streams[s].output * (size_t)inputs;
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) x[s][r] = job->x + row_or_first(job, row + r) * job->ldx;
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[s][r] = _mm512_setzero_ps();
  }
#pragma clang loop unroll(disable)
  for (int b = 0; b < blocks; ++b) {
    const NarrowScale* of_x[S][R];
    __m512i lanes[S][R];
    ASHLAR_UNROLL for (int s = 0; s < S; ++s) ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const Narrow8Job* job = streams[s].job;
      of_x[s][r] = job->x_scales + row_or_first(job, row + r) * job->ld_scales + b;
      lanes[s][r] = _mm512_set1_epi32(of_x[s][r]->bias);
    }
    const int end = least(inputs, (b + 1) * kNarrow8Block);
#pragma clang loop unroll(disable)
    for (int i = b * kNarrow8Block; i < end; i += 4) ASHLAR_UNROLL for (int s = 0; s < S; ++s) {
        _mm_prefetch((const char*)(weights[s] + ahead), _MM_HINT_T0);
        const __m512i w = _mm512_maskz_loadu_epi32(there, weights[s]);
        weights[s] += 4 * width;
        ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[s][r] =
            plus_products(lanes[s][r], w, _mm512_set1_epi32(*(const Int32*)(x[s][r] + i)));
      }
    ASHLAR_UNROLL for (int s = 0; s < S; ++s) {
      const __m512 scales =
          scales_at(streams[s].job->scales + (size_t)streams[s].output * (size_t)blocks + (size_t)(b * width), width);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[s][r] = _mm512_fmadd_ps(
          _mm512_cvtepi32_ps(lanes[s][r]), _mm512_mul_ps(scales, _mm512_set1_ps(of_x[s][r]->scale)), sums[s][r]);
    }
  }
  ASHLAR_UNROLL for (int s = 0; s < S; ++s) ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
    const Narrow8Job* job = streams[s].job;
    if (row + r >= job->rows) continue;
    float* y = job->y[row + r] + streams[s].output;
    const __m512 before = _mm512_maskz_loadu_ps(job->add ? there : (__mmask16)0, y);
    _mm512_mask_storeu_ps(y, there, _mm512_fmadd_ps(sums[s][r], _mm512_set1_ps(job->scale), before));
  }
}

template <int S>
static void multiply_rows(const Stream* streams, int rows) {
  int row = 0;
  if (S == 1)
    for (; row + 8 <= rows; row += 8) multiply<1, 8>(streams, row);
  for (; row + 4 <= rows; row += 4) multiply<S, 4>(streams, row);
  if (row + 2 <= rows) {
    multiply<S, 2>(streams, row);
    row += 2;
  }
  if (row < rows) multiply<S, 1>(streams, row);
}

static void multiply_one(const Narrow8Job* job) {
  const int quarter = job->outputs / kLanes / kStreams * kLanes;
  for (int o = 0; o < quarter; o += kLanes) {
    Stream streams[kStreams];
    for (int s = 0; s < kStreams; ++s) streams[s] = {job, o + s * quarter};
    multiply_rows<kStreams>(streams, job->rows);
  }
  for (int o = kStreams * quarter; o < job->outputs; o += kLanes) {
    const Stream stream = {job, o};
    multiply_rows<1>(&stream, job->rows);
  }
}

// The most rows of the next kStreams jobs, or 0: they do not go together. Those of more rows have enough to do with
// what comes from memory.
static int rows_abreast(const Narrow8Job* jobs, int count) {
  if (count < kStreams) return 0;
  int rows = 0;
  for (int j = 0; j < kStreams; ++j) {
    if (jobs[j].inputs != jobs->inputs || jobs[j].outputs != jobs->outputs) return 0;
    rows = most(rows, jobs[j].rows);
  }
  return rows <= 4 ? rows : 0;
}

}  // namespace

void narrow8(const Narrow8Job* jobs, int count) {
  for (int j = 0; j < count; ++j) fetch(jobs + j);
  while (count > 0) {
    const int rows = rows_abreast(jobs, count), taken = rows > 0 ? kStreams : 1;
    if (rows == 0) multiply_one(jobs);
    for (int o = 0; rows > 0 && o < jobs->outputs; o += kLanes) {
      Stream streams[kStreams];
      for (int s = 0; s < kStreams; ++s) streams[s] = {jobs + s, o};
      multiply_rows<kStreams>(streams, rows);
    }
    jobs += taken;
    count -= taken;
  }
}

void narrow8_codes(const float* x, int n, int8_t* codes, NarrowScale* scales) {
  const __m512 limit = _mm512_set1_ps(127.5f);
  const int end = narrow8_codes_of(n);
  for (int begin = 0; begin < n; begin += kNarrow8Block, ++scales) {
    __m512 v[8], greatest = _mm512_setzero_ps();
    ASHLAR_UNROLL for (int k = 0; k < 8; ++k) {
      const int i = begin + 16 * k;
      v[k] = i + 16 <= n ? _mm512_loadu_ps(x + i) : _mm512_maskz_loadu_ps(lanes_of(n - i), x + i);
      greatest = _mm512_max_ps(_mm512_abs_ps(v[k]), greatest);  // not a number: greatest stays
    }
    const float size = _mm512_reduce_max_ps(greatest);
    const int some = size >= 0x1p-100f;
    const __m512 inverse = _mm512_set1_ps(some ? 127.0f / size : 0.0f);
    __m512i sum = _mm512_setzero_si512();
    ASHLAR_UNROLL for (int k = 0; k < 8; ++k) {
      const __m512 scaled = _mm512_mul_ps(v[k], inverse);
      const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(scaled), limit, _CMP_LE_OQ);
      const __m512i integers = _mm512_maskz_cvtps_epi32(finite, scaled);
      sum = _mm512_add_epi32(sum, integers);
      if (begin + 16 * k < end) _mm_storeu_si128((__m128i*)(codes + begin + 16 * k), _mm512_cvtepi32_epi8(integers));
    }
    scales->scale = some ? size / 127.0f : 0.0f;
    scales->bias = -128 * _mm512_reduce_add_epi32(sum);
  }
}

}  // namespace ashlar::kernels::avx512
