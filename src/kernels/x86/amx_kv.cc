// Writes keys and values in the order that tiles read them: keys
// [head_dim / 2][16 positions][2], values [8 pairs of positions][head_dim][2].
#include <immintrin.h>

#include "kernels/x86/amx_pages.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::amx {
namespace {

// Sixteen floats to two bytes each, to nearest even; f16 clamped to its range.
ASHLAR_INLINE __m256i narrowed(__m512 v, int format) {
  if (format == kKvBF16) return (__m256i)_mm512_cvtneps_pbh(v);
  const __m512 bound = _mm512_set1_ps(65504.0f);
  // Not-a-number stays: min and max give their second operand then.
  v = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), bound), _mm512_min_ps(bound, v));
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

}  // namespace

void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot) {
  const avx512::Int8Scale scale = format == kKvInt8 ? avx512::int8_scale(key, head_dim) : avx512::Int8Scale{};
  for (int d = 0; d < head_dim; d += 16) {
    const int pairs = least(16, head_dim - d) / 2;
    const __m512 x = _mm512_maskz_loadu_ps((__mmask16)bits(0, 2 * pairs), key + d);
    if (format == kKvInt8) {
      alignas(16) uint16_t codes[8];
      _mm_store_si128((__m128i*)codes, avx512::int8_codes(x, scale.inverse));
      for (int i = 0; i < pairs; ++i) ((uint16_t*)keys)[(d / 2 + i) * kKvBlock + slot] = codes[i];
    } else {
      alignas(32) uint32_t halves[8];
      _mm256_store_si256((__m256i*)halves, narrowed(x, format));
      for (int i = 0; i < pairs; ++i) ((uint32_t*)keys)[(d / 2 + i) * kKvBlock + slot] = halves[i];
    }
  }
  if (format == kKvInt8) ((float*)(keys + head_dim * kKvBlock))[slot] = scale.scale;
}

void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot) {
  const avx512::Int8Scale scale = format == kKvInt8 ? avx512::int8_scale(value, head_dim) : avx512::Int8Scale{};
  const uint32_t mine = slot % 2 == 0 ? 0x55555555u : 0xaaaaaaaau;
  for (int d = 0; d < head_dim; d += 16) {
    const uint32_t lanes = bits(0, head_dim - d);
    const __m512 x = _mm512_maskz_loadu_ps((__mmask16)lanes, value + d);
    const size_t at = (size_t)(slot / 2) * 2 * head_dim + 2 * d;
    const uint32_t elements = mine & bits(0, 2 * (head_dim - d));
    if (format == kKvInt8) {
      const __m256i wide = _mm256_cvtepi8_epi16(avx512::int8_codes(x, scale.inverse));
      _mm256_mask_storeu_epi8(values + at, elements, slot % 2 == 0 ? wide : _mm256_slli_epi16(wide, 8));
    } else {
      const __m512i wide = _mm512_cvtepu16_epi32(narrowed(x, format));
      _mm512_mask_storeu_epi16(values + 2 * at, elements, slot % 2 == 0 ? wide : _mm512_slli_epi32(wide, 16));
    }
  }
  if (format == kKvInt8) ((float*)(values + head_dim * kKvBlock))[slot] = scale.scale;
}

}  // namespace ashlar::kernels::amx
