// Products of F32, F16 and BF16 weights with f32 activations, AVX2. One tile of 16
// weight rows (two vectors) meets up to 4 rows of activations; the sum over columns
// is one chain of fused multiply-adds for each element of the result.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

template <Format format>
ASHLAR_INLINE __m256 read(const uint8_t* p) {
  if constexpr (format == kF32)
    return _mm256_loadu_ps((const float*)p);
  else
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}

// Two columns of a BF16 tile: a lane's pair stands in one word.
ASHLAR_INLINE __m256 even(__m256i both) { return _mm256_castsi256_ps(_mm256_slli_epi32(both, 16)); }
ASHLAR_INLINE __m256 odd(__m256i both) {
  return _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)));
}

template <int R>
ASHLAR_INLINE void add_column(__m256 a, __m256 b, const float* x, __m256 (&sums)[2][R]) {
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
    const __m256 v = _mm256_broadcast_ss(x + r);
    sums[0][r] = _mm256_fmadd_ps(a, v, sums[0][r]);
    sums[1][r] = _mm256_fmadd_ps(b, v, sums[1][r]);
  }
}

// R rows of a panel that is `width` rows wide.
template <Format format, int R, int width>
static void multiply(const MatmulJob* job, const uint8_t* tile, const float* x, int rows, float* y, int outputs) {
  __m256 sums[2][R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[0][r] = sums[1][r] = _mm256_setzero_ps();
  if constexpr (format == kBF16) {
    for (int k = 0; k < job->units; k += 2, tile += 64, x += 2 * width) {
      const __m256i a = _mm256_loadu_si256((const __m256i*)tile), b = _mm256_loadu_si256((const __m256i*)(tile + 32));
      add_column<R>(even(a), even(b), x, sums);
      add_column<R>(odd(a), odd(b), x + width, sums);
    }
  } else {
    constexpr int size = format == kF32 ? 4 : 2;
    for (int k = 0; k < job->units; ++k, tile += kLanes * size, x += width)
      add_column<R>(read<format>(tile), read<format>(tile + 8 * size), x, sums);
  }
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
    if (r >= rows) break;
    _mm256_maskstore_ps(y + (size_t)r * job->ldy, lanes_of(outputs), sums[0][r]);
    _mm256_maskstore_ps(y + (size_t)r * job->ldy + 8, lanes_of(outputs - 8), sums[1][r]);
  }
}

template <Format format>
static void matmul(const MatmulJob* job) {
  const uint8_t* panel = (const uint8_t*)job->x;
  for (int first = 0; first < job->rows; first += kFloatPanelRows, panel += job->panel_bytes) {
    const int rows = job->rows - first;
    const float* x = (const float*)panel;
    const uint8_t* tile = job->tiles;
    for (int o = 0; o < job->outputs; o += kLanes, tile += job->tile_bytes) {
      float* y = job->y + (size_t)first * job->ldy + o;
      const int left = job->outputs - o;
      if (rows >= 5) {
        multiply<format, 4, 8>(job, tile, x, rows, y, left);
        multiply<format, 4, 8>(job, tile, x + 4, rows - 4, y + 4 * job->ldy, left);
      } else if (rows >= 3) {
        multiply<format, 4, 4>(job, tile, x, rows, y, left);
      } else if (rows == 2) {
        multiply<format, 2, 2>(job, tile, x, rows, y, left);
      } else {
        multiply<format, 1, 1>(job, tile, x, rows, y, left);
      }
    }
  }
}

}  // namespace

void matmul_f32(const MatmulJob* job) { matmul<kF32>(job); }
void matmul_f16(const MatmulJob* job) { matmul<kF16>(job); }
void matmul_bf16(const MatmulJob* job) { matmul<kBF16>(job); }

}  // namespace ashlar::kernels::avx2
