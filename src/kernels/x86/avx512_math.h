// Inline arithmetic for the avx512 files only; all of it has internal linkage.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/table.h"

#define ASHLAR_INLINE static inline __attribute__((always_inline))
// Sums over rows stay in registers only when their loops are unrolled; under a sanitizer that takes minutes to compile.
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ASHLAR_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define ASHLAR_UNROLL _Pragma("clang loop unroll(full)")
#endif

namespace ashlar::kernels::avx512 {
namespace {

// Four int8 codes, wherever they lie.
typedef int32_t __attribute__((may_alias, aligned(1))) Int32;

ASHLAR_INLINE int least(int a, int b) { return a < b ? a : b; }
ASHLAR_INLINE int most(int a, int b) { return a > b ? a : b; }

// Sixteen sums added by halves, in the order of ref.
ASHLAR_INLINE float sum_by_halves(__m512 v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// e^x, the same steps as ref::exponential().
ASHLAR_INLINE __m512 exponential(__m512 x) {
  const __mmask16 alive = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
  x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  const __m512 y = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  const __m512i power = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
  return _mm512_maskz_mov_ps(alive, _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y), power)));
}

// cap * tanh(x / cap), the same steps as ref's; minus infinity stays.
ASHLAR_INLINE __m512 capped(__m512 x, float cap) {
  const __m512 e = exponential(_mm512_mul_ps(x, _mm512_set1_ps(2.0f / cap)));
  const __m512 below = _mm512_div_ps(_mm512_set1_ps(2.0f * cap), _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
  const __mmask16 nothing = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-__builtin_inff()), _CMP_EQ_OQ);
  return _mm512_mask_mov_ps(_mm512_sub_ps(_mm512_set1_ps(cap), below), nothing, x);
}

// Keys and values as int8: the greatest magnitude is 127, as ref's quantize() has it.
struct Int8Scale {
  float scale, inverse;
};

ASHLAR_INLINE Int8Scale int8_scale(const float* x, int n) {
  __m512 most = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = n - i >= 16 ? (__mmask16)0xffff : (__mmask16)0xff;
    most = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(lanes, x + i)), most);  // not a number: most stays
  }
  float greatest = _mm512_reduce_max_ps(most);
  greatest = greatest < __FLT_MAX__ ? greatest : __FLT_MAX__;
  if (greatest < kLeastInt8) return {0, 0};
  return {greatest / 127.0f, 127.0f / greatest};
}

ASHLAR_INLINE __m128i int8_codes(__m512 x, float inverse) {
  const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(inverse));
  const __m512 bounded = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f));
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(bounded));
}

}  // namespace
}  // namespace ashlar::kernels::avx512
