// Few rows against narrow int8 matrices, AVX2. Weights are read once for up to two rows.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

// How far ahead weights are fetched: the hardware stops at each 4 KiB.
constexpr size_t kAhead = 4096;

typedef int32_t __attribute__((may_alias, aligned(1))) FourCodes;

ASHLAR_INLINE int least(int a, int b) { return a < b ? a : b; }

// Products of codes: no pair of them is beyond 16 bits, for |w| is at most 128 and |x| 127.
ASHLAR_INLINE __m256i plus_products(__m256i sum, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// bf16 scales of `left` outputs, at most eight of them.
ASHLAR_INLINE __m256 scales_at(const uint16_t* p, int left) {
  alignas(16) uint16_t halves[8] = {};
  for (int i = 0; i < least(left, 8); ++i) halves[i] = p[i];
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_load_si128((const __m128i*)halves));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

// A tile of outputs and R rows. Weights without their offset here, so that x needs no bias.
template <int R>
static void multiply(const Narrow8Job* job, int o, int row) {
  const int inputs = narrow8_inputs(job->inputs), blocks = narrow8_blocks(inputs);
  const int width = least(kLanes, job->outputs - o);
  const uint8_t* weights = job->weights + (size_t)o * (size_t)inputs;
  const uint16_t* scales = job->scales + (size_t)o * (size_t)blocks;
  const __m256i there[2] = {lanes_of(width), lanes_of(width - 8)}, offset = _mm256_set1_epi8((char)0x80);
  __m256 sums[2][R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[0][r] = sums[1][r] = _mm256_setzero_ps();
#pragma clang loop unroll(disable)
  for (int b = 0; b < blocks; ++b, scales += width) {
    __m256i lanes[2][R];
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) lanes[0][r] = lanes[1][r] = _mm256_setzero_si256();
    const int end = least(inputs, (b + 1) * kNarrow8Block);
#pragma clang loop unroll(disable)
    for (int i = b * kNarrow8Block; i < end; i += 4, weights += 4 * width) {
      _mm_prefetch((const char*)weights + kAhead, _MM_HINT_T0);
      ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
        const __m256i w = _mm256_xor_si256(_mm256_maskload_epi32((const int*)weights + 8 * h, there[h]), offset);
        ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
          const int8_t* x = job->x + (size_t)(row + r) * job->ldx + i;
          lanes[h][r] = plus_products(lanes[h][r], w, _mm256_set1_epi32(*(const FourCodes*)x));
        }
      }
    }
    ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
      const __m256 scale = scales_at(scales + 8 * h, width - 8 * h);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
        const float of_x = job->x_scales[(size_t)(row + r) * job->ld_scales + (size_t)b].scale;
        sums[h][r] =
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(lanes[h][r]), _mm256_mul_ps(scale, _mm256_set1_ps(of_x)), sums[h][r]);
      }
    }
  }
  ASHLAR_UNROLL for (int h = 0; h < 2; ++h) ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
    float* y = job->y[row + r] + o + 8 * h;
    const __m256 before = job->add ? _mm256_maskload_ps(y, there[h]) : _mm256_setzero_ps();
    _mm256_maskstore_ps(y, there[h], _mm256_fmadd_ps(sums[h][r], _mm256_set1_ps(job->scale), before));
  }
}

}  // namespace

void narrow8(const Narrow8Job* jobs, int count) {
  for (const Narrow8Job* job = jobs; job < jobs + count; ++job)
    for (int o = 0; o < job->outputs; o += kLanes) {
      int row = 0;
      for (; row + 2 <= job->rows; row += 2) multiply<2>(job, o, row);
      if (row < job->rows) multiply<1>(job, o, row);
    }
}

void narrow8_codes(const float* x, int n, int8_t* codes, NarrowScale* scales) {
  const __m256 limit = _mm256_set1_ps(127.5f);
  const int end = narrow8_codes_of(n);
  for (int begin = 0; begin < n; begin += kNarrow8Block, ++scales) {
    __m256 most = _mm256_setzero_ps();
    for (int i = begin; i < least(n, begin + kNarrow8Block); i += 8)
      most = _mm256_max_ps(absolute(_mm256_maskload_ps(x + i, lanes_of(n - i))), most);
    const float greatest = greatest_of(most);
    const int some = greatest >= 0x1p-100f;
    const __m256 inverse = _mm256_set1_ps(some ? 127.0f / greatest : 0.0f);
    __m256i sum = _mm256_setzero_si256();
    for (int i = begin; i < least(end, begin + kNarrow8Block); i += 8) {
      const __m256 scaled = _mm256_mul_ps(_mm256_maskload_ps(x + i, lanes_of(n - i)), inverse);
      const __m256 finite = _mm256_cmp_ps(absolute(scaled), limit, _CMP_LE_OQ);
      const __m256i integers = _mm256_and_si256(_mm256_castps_si256(finite), _mm256_cvtps_epi32(scaled));
      sum = _mm256_add_epi32(sum, integers);
      const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
      _mm_storel_epi64((__m128i*)(codes + i), _mm_packs_epi16(words, words));
    }
    alignas(32) int32_t parts[8];
    _mm256_store_si256((__m256i*)parts, sum);
    int32_t total = 0;
    for (int i = 0; i < 8; ++i) total += parts[i];
    scales->scale = some ? greatest / 127.0f : 0.0f;
    scales->bias = -128 * total;
  }
}

}  // namespace ashlar::kernels::avx2
