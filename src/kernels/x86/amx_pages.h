// Where attention on tiles keeps what it works on, and how stored keys and
// values become tiles of bf16. For the amx files only; all of it has internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/x86/amx_tiles.h"

namespace ashlar::kernels::amx {
namespace {

constexpr int kChunk = 128;  // positions whose scores are held at once: all of them stay in the first cache
constexpr int kChunkBlocks = kChunk / kKvBlock;
constexpr int kColumns = 5;  // tiles of sums that stay in registers
constexpr float kNothing = -__builtin_inff();
constexpr float kLog2E = 1.44269504f;

ASHLAR_INLINE int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Bits [from, to) of 32; the bounds may lie outside.
ASHLAR_INLINE uint32_t bits(int from, int to) {
  const auto below = [](int n) { return n >= 32 ? ~0u : n <= 0 ? 0u : (1u << n) - 1; };
  return below(to) & ~below(from);
}

// What a job keeps while it walks the positions; carved from its scratch.
struct State {
  const AttentionJob* job;
  int key_dims;       // head_dim up to whole tiles of 32
  int value_dims;     // head_dim and the one, up to whole tiles of 16
  int q_stride;       // bf16
  int configured;     // rows that the tiles are set up for
  uint16_t* q;        // [rows][q_stride], scaled
  float* sums;        // [rows][value_dims], of this split; at head_dim the sum of weights
  float* scores[2];   // of this group and of the next: [block][16 rows][16 positions]
  uint16_t* weights;  // [pair of blocks][16 rows][32 positions]
  uint8_t* keys;      // [block][key_dims / 2][16 positions][2], bf16
  uint8_t* values;    // tiles: [pair of blocks][value_dims / 16][16 pairs of positions][16][2], bf16
  const uint8_t* key_tiles[kChunkBlocks];              // in `keys`, or where they are stored
  uint32_t ones;                                       // bit b: the one stands behind the values of block b
  alignas(64) float peak[kAttentionRows + kTileRows];  // of this split
  float total_peak[kAttentionRows], total_weight[kAttentionRows];
};

// Sixteen pairs of stored elements as bf16; int8 codes times their scales.
template <int format>
ASHLAR_INLINE __m512i line(const uint8_t* p, __mmask32 elements, __m512 low_scales, __m512 high_scales) {
  if constexpr (format == kKvBF16) return _mm512_maskz_loadu_epi16(elements, p);
  __m512 low, high;
  if constexpr (format == kKvF16) {
    const __m512i halves = _mm512_maskz_loadu_epi16(elements, p);
    low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
  } else {
    const __m256i codes = _mm256_maskz_loadu_epi8(elements, p);
    low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
    high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
    low = _mm512_mul_ps(low, low_scales);
    high = _mm512_mul_ps(high, high_scales);
  }
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// The scales of sixteen positions of keys (each twice), or nothing.
template <int format>
ASHLAR_INLINE void twice(const uint8_t* scales, __m512* low, __m512* high) {
  *low = *high = _mm512_setzero_ps();
  if constexpr (format != kKvInt8) return;
  const __m512 all = _mm512_loadu_ps(scales);
  const __m512i order = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  *low = _mm512_permutexvar_ps(order, all);
  *high = _mm512_permutexvar_ps(_mm512_add_epi32(order, _mm512_set1_epi32(8)), all);
}

// The scales of two positions of values, in turn.
template <int format>
ASHLAR_INLINE __m512 in_turn(const uint8_t* scales) {
  if constexpr (format != kKvInt8) return _mm512_setzero_ps();
  return _mm512_castpd_ps(_mm512_broadcastsd_pd(_mm_load_sd((const double*)scales)));
}

// Keys of block b of the chunk, stored as `block`.
template <int format>
ASHLAR_INLINE void gather_keys(State* s, int block, int b) {
  constexpr int kLine = format == kKvInt8 ? 32 : 64;
  const AttentionJob* job = s->job;
  const uint8_t* stored = job->keys + (size_t)block * job->block_bytes;
  if (format == kKvBF16 && s->key_dims == job->head_dim) {
    s->key_tiles[b] = stored;
    return;
  }
  __m512 low, high;
  twice<format>(stored + job->head_dim * kKvBlock, &low, &high);
  uint8_t* out = s->keys + (size_t)b * s->key_dims * 32;
  s->key_tiles[b] = out;
  int pair = 0;
  for (; pair < job->head_dim / 2; pair += 4)
    ASHLAR_UNROLL for (int i = pair; i < pair + 4; ++i)
        _mm512_store_si512(out + 64 * i, line<format>(stored + kLine * i, ~0u, low, high));
  for (; pair < s->key_dims / 2; ++pair) _mm512_store_si512(out + 64 * pair, _mm512_setzero_si512());
}

// The last values of a pair of positions, and the one.
template <int format>
ASHLAR_INLINE __m512i end_of_line(const uint8_t* stored, int left, uint32_t seen, __m512 scales) {
  const __m512i one = _mm512_maskz_set1_epi16((__mmask32)3 << (2 * left), 0x3f80);
  return left == 0 ? one : _mm512_or_si512(one, line<format>(stored, seen & 0xffff, scales, scales));
}

// Values of block b, and the one behind them; the first `known` positions, zeros for the others, which may not be
// written yet or be somebody else's.
template <int format>
ASHLAR_INLINE void gather_values(State* s, int block, int b, int known) {
  constexpr int kElement = format == kKvInt8 ? 1 : 2;
  const AttentionJob* job = s->job;
  const int whole = job->head_dim & ~15, left = job->head_dim - whole, row = 2 * kElement * job->head_dim;
  const uint8_t* stored = job->values + (size_t)block * job->block_bytes;
  const uint8_t* scales = stored + job->head_dim * kKvBlock;
  uint8_t* out = s->values + (size_t)(b / 2) * s->value_dims * 64 + b % 2 * 512;
  if (known >= kKvBlock) {
    __m512 both[kKvBlock / 2];
    ASHLAR_UNROLL for (int pair = 0; pair < kKvBlock / 2; ++pair) both[pair] = in_turn<format>(scales + 8 * pair);
    for (int d = 0; d < whole; d += 16)
      ASHLAR_UNROLL for (int pair = 0; pair < kKvBlock / 2; ++pair) _mm512_store_si512(
          out + 64 * d + 64 * pair, line<format>(stored + pair * row + 2 * kElement * d, ~0u, both[pair], both[pair]));
    if (left == 0 && (s->ones >> b & 1) != 0) return;
    s->ones |= 1u << b;
    for (int pair = 0; pair < kKvBlock / 2; ++pair)
      _mm512_store_si512(out + 64 * whole + 64 * pair,
                         end_of_line<format>(stored + pair * row + 2 * kElement * whole, left, ~0u, both[pair]));
    return;
  }
  for (int pair = 0; pair < kKvBlock / 2; ++pair, stored += row, out += 64) {
    const uint32_t seen = 2 * pair + 1 < known ? ~0u : 2 * pair < known ? 0x55555555u : 0;
    __m512 both = _mm512_setzero_ps();  // a scale that is not known may be no number
    if (2 * pair < known) both = in_turn<format>(scales + 8 * pair);
    if (format == kKvInt8 && 2 * pair + 1 >= known) both = _mm512_maskz_mov_ps(0x5555, both);
    for (int d = 0; d < whole; d += 16)
      _mm512_store_si512(out + 64 * d, line<format>(stored + 2 * kElement * d, seen, both, both));
    _mm512_store_si512(out + 64 * whole, end_of_line<format>(stored + 2 * kElement * whole, left, seen, both));
  }
}

}  // namespace
}  // namespace ashlar::kernels::amx
