// Inline arithmetic for the avx2 files only; all of it has internal linkage.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define ASHLAR_INLINE static inline __attribute__((always_inline))
// Sums over rows stay in registers only when their loops are unrolled; under a sanitizer that takes minutes to compile.
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ASHLAR_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define ASHLAR_UNROLL _Pragma("clang loop unroll(full)")
#endif

namespace ashlar::kernels::avx2 {
namespace {

// The first `left` of eight lanes, as a mask for maskload and maskstore.
ASHLAR_INLINE __m256i lanes_of(int left) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(left), index);
}

// Sixteen sums, in two vectors, added by halves in the order of ref.
ASHLAR_INLINE float sum_by_halves(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

ASHLAR_INLINE float greatest_of(__m256 v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

ASHLAR_INLINE __m256 absolute(__m256 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

// e^x, the same steps as ref::exponential().
ASHLAR_INLINE __m256 exponential(__m256 x) {
  const __m256 alive = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GT_OQ);
  x = _mm256_min_ps(x, _mm256_set1_ps(88.0f));
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  const __m256 y = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_and_ps(alive, _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power)));
}

// cap * tanh(x / cap), the same steps as ref's; minus infinity stays.
ASHLAR_INLINE __m256 capped(__m256 x, float cap) {
  const __m256 e = exponential(_mm256_mul_ps(x, _mm256_set1_ps(2.0f / cap)));
  const __m256 below = _mm256_div_ps(_mm256_set1_ps(2.0f * cap), _mm256_add_ps(e, _mm256_set1_ps(1.0f)));
  const __m256 nothing = _mm256_cmp_ps(x, _mm256_set1_ps(-__builtin_inff()), _CMP_EQ_OQ);
  return _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(cap), below), x, nothing);
}

}  // namespace
}  // namespace ashlar::kernels::avx2
