// Attention over one KV head with tiles of bf16. Rows (query heads of one KV
// group times positions, of one or more sequences) are taken up to 32 at a
// time: two tiles. For each chunk of positions: scores Q K^T by tiles, weights
// 2^(score - peak) by vectors, rounded to bf16, and sums of values P V by tiles
// again. Peaks are whole numbers, so that rescaling is exact.
//
// A tile product is summed in one order for each row, whatever the other rows
// are, and what a row does not see has weight zero: its result is its own.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::amx {
namespace {

using avx512::sum_by_halves;

constexpr int kTileRows = 16;
constexpr int kTogether = 2 * kTileRows;
constexpr int kChunkBlocks = kKvChunk / kKvBlock;
// Rows of scores and weights do not stand a power of two apart: they would compete for the same places of the cache.
constexpr int kScoreStride = kKvChunk + 16;   // floats
constexpr int kWeightStride = kKvChunk + 32;  // bf16
constexpr float kNothing = -__builtin_inff();
constexpr float kLog2E = 1.44269504f;

ASHLAR_INLINE int least(int a, int b) { return a < b ? a : b; }
ASHLAR_INLINE int most(int a, int b) { return a > b ? a : b; }
ASHLAR_INLINE int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Bits [from, to) of 32; the bounds may lie outside.
ASHLAR_INLINE uint32_t bits(int from, int to) {
  const auto below = [](int n) { return n >= 32 ? ~0u : n <= 0 ? 0u : (1u << n) - 1; };
  return below(to) & ~below(from);
}

// What a job keeps while it walks the positions; carved from its scratch.
struct State {
  const AttentionJob* job;
  int key_dims;      // head_dim up to whole tiles of 32
  int value_dims;    // ... of 16
  int q_stride;      // bf16
  int configured;    // rows that the tiles are set up for
  uint16_t* q;       // [rows][q_stride], scaled
  float* sums;       // [rows][value_dims], of this split
  float* scores;     // [32][kScoreStride]
  uint16_t* weights;  // [32][kWeightStride]
  uint8_t* keys;     // [block][key_dims / 2][16 positions][2], bf16
  uint8_t* values;   // [pair of positions][value_dims][2], bf16
  const uint8_t* key_tiles[kChunkBlocks];         // in `keys`, or where they are stored
  alignas(64) float key_scales[kKvChunk];         // of int8
  alignas(64) float value_scales[kKvChunk];
  alignas(64) float peak[kAttentionRows], weight[kAttentionRows];  // of this split
  alignas(64) float total_peak[kAttentionRows], total_weight[kAttentionRows];
};

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t columns[16] = {};  // bytes
  uint8_t rows[16] = {};
};

// Tiles 0 1 | 2 3: sums of the first | the second 16 rows; 4 | 5: these rows of the left side; 6, 7: the right side.
ASHLAR_INLINE void configure(State* s, int rows) {
  if (s->configured == rows) return;
  s->configured = rows;
  const auto first = (uint8_t)least(rows, kTileRows), second = (uint8_t)(rows > kTileRows ? rows - kTileRows : 1);
  const uint8_t counts[8] = {first, first, second, second, first, second, kTileRows, kTileRows};
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.columns[i] = 64;
    config.rows[i] = counts[i];
  }
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);
}

// Sixteen pairs of stored elements as bf16; int8 codes are not yet scaled.
template <int format>
ASHLAR_INLINE __m512i line(const uint8_t* p, __mmask32 elements) {
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
  }
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// Keys of blocks [from, to) of the chunk at `chunk`.
template <int format>
ASHLAR_INLINE void gather_keys(State* s, const int* blocks, int chunk, int from, int to) {
  constexpr int kLine = format == kKvInt8 ? 32 : 64;
  const AttentionJob* job = s->job;
  for (int b = from; b < to; ++b) {
    const uint8_t* stored = job->keys + (size_t)blocks[chunk / kKvBlock + b] * job->block_bytes;
    if (format == kKvBF16 && s->key_dims == job->head_dim) {
      s->key_tiles[b] = stored;
      continue;
    }
    uint8_t* out = s->keys + (size_t)b * s->key_dims * 32;
    s->key_tiles[b] = out;
    int pair = 0;
    for (; pair < job->head_dim / 2; ++pair)
      _mm512_store_si512(out + 64 * pair, line<format>(stored + kLine * pair, ~0u));
    for (; pair < s->key_dims / 2; ++pair) _mm512_store_si512(out + 64 * pair, _mm512_setzero_si512());
    if (format == kKvInt8)
      _mm512_store_ps(s->key_scales + 16 * b, _mm512_loadu_ps(stored + job->head_dim * kKvBlock));
  }
}

// Values of blocks [from, to), whole pairs of blocks where `to` is an end; zeros from position `limit` on, which may
// not be written yet or be somebody else's.
template <int format>
ASHLAR_INLINE void gather_values(State* s, const int* blocks, int chunk, int from, int to, int limit) {
  constexpr int kElement = format == kKvInt8 ? 1 : 2;
  const AttentionJob* job = s->job;
  for (int b = from; b < to; ++b) {
    const int known = limit - chunk - b * kKvBlock;
    const uint8_t* stored = job->values + (size_t)(known > 0 ? blocks[chunk / kKvBlock + b] : 0) * job->block_bytes;
    uint8_t* out = s->values + (size_t)b * s->value_dims * 32;
    if (format == kKvInt8)
      _mm512_store_ps(s->value_scales + 16 * b,
                      _mm512_maskz_loadu_ps((__mmask16)bits(0, known), stored + job->head_dim * kKvBlock));
    for (int pair = 0; pair < kKvBlock / 2; ++pair, stored += 2 * kElement * job->head_dim) {
      const uint32_t seen = 2 * pair + 1 < known ? ~0u : 2 * pair < known ? 0x55555555u : 0;
      for (int d = 0; d < s->value_dims; d += 16, out += 64)
        _mm512_store_si512(out, line<format>(stored + 2 * kElement * d, seen & bits(0, 2 * (job->head_dim - d))));
    }
  }
}

// Scores of rows [row, row + up to 32) for blocks [from, to) of the chunk. Two: more than 16 rows.
template <bool two>
ASHLAR_INLINE void score(const State* s, int row, int from, int to) {
  const uint16_t *q0 = s->q + row * s->q_stride, *q1 = q0 + kTileRows * s->q_stride;
  const long stride = 2 * s->q_stride;
  float *out0 = s->scores, *out1 = out0 + kTileRows * kScoreStride;
  constexpr long kOut = 4 * kScoreStride;
  for (int b = from; b < to; b += 2) {
    const bool odd = b + 1 == to;
    const uint8_t *k0 = s->key_tiles[b], *k1 = s->key_tiles[odd ? b : b + 1];
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (two) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int d = 0; d < s->key_dims; d += 32, k0 += 1024, k1 += 1024) {
      _tile_loadd(4, q0 + d, stride);
      _tile_loadd(6, k0, 64);
      _tile_loadd(7, k1, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (two) {
        _tile_loadd(5, q1 + d, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, out0 + 16 * b, kOut);
    if (!odd) _tile_stored(1, out0 + 16 * b + 16, kOut);
    if constexpr (two) {
      _tile_stored(2, out1 + 16 * b, kOut);
      if (!odd) _tile_stored(3, out1 + 16 * b + 16, kOut);
    }
  }
}

// Adds the weighted values of blocks [from, to), both even, to the rows' sums.
template <bool two>
ASHLAR_INLINE void add_values(const State* s, int row, int from, int to) {
  const uint16_t *p0 = s->weights, *p1 = p0 + kTileRows * kWeightStride;
  float *out0 = s->sums + (size_t)row * s->value_dims, *out1 = out0 + kTileRows * s->value_dims;
  constexpr long kIn = 2 * kWeightStride;
  const long stride = 4 * s->value_dims;
  for (int d = 0; d < s->value_dims; d += 32) {
    const bool odd = d + 16 == s->value_dims;
    const int next = odd ? 0 : 16;
    _tile_loadd(0, out0 + d, stride);
    _tile_loadd(1, out0 + d + next, stride);
    if constexpr (two) {
      _tile_loadd(2, out1 + d, stride);
      _tile_loadd(3, out1 + d + next, stride);
    }
    for (int b = from; b < to; b += 2) {
      const uint8_t* v = s->values + (size_t)b * s->value_dims * 32 + 4 * d;
      _tile_loadd(4, p0 + 16 * b, kIn);
      _tile_loadd(6, v, stride);
      _tile_loadd(7, v + 4 * next, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (two) {
        _tile_loadd(5, p1 + 16 * b, kIn);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, out0 + d, stride);
    if (!odd) _tile_stored(1, out0 + d + next, stride);
    if constexpr (two) {
      _tile_stored(2, out1 + d, stride);
      if (!odd) _tile_stored(3, out1 + d + next, stride);
    }
  }
}

// 2^(x - peak) for x <= peak, a whole number; relative error 1e-4, then that of bf16. The sum x + (kMagic - peak) has
// the nearest whole number to x - peak in its low bits, and the power of two is added to the exponent of 2^fraction.
struct Power {
  __m512 magic, bound;

  ASHLAR_INLINE Power of(float peak) {
    return {_mm512_set1_ps(0x1.8p23f - peak), _mm512_set1_ps(peak - 120.0f)};
  }
  __attribute__((always_inline)) __m512 operator()(__m512 x, __mmask16 seen) const {
    x = _mm512_max_ps(x, bound);
    const __m512 z = _mm512_add_ps(x, magic);
    const __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(z, magic));
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(5.5171711e-2f), f, _mm512_set1_ps(2.4261123e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326099e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992807e-1f));
    const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(z), 23);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(seen, _mm512_castps_si512(p), power));
  }
};

// 2^(from - to), both whole numbers, from <= to or minus infinity.
ASHLAR_INLINE float rescale(float from, float to) {
  const __m128 one = _mm_set_ss(1.0f);
  return from == to ? 1.0f : _mm_cvtss_f32(_mm_scalef_ss(one, _mm_set_ss(from - to)));
}

// Scores of row `i` of those at hand to weights, positions [first, end) seen of the pairs of blocks [from, to).
template <int format>
ASHLAR_INLINE void weigh(State* s, int row, int i, int first, int end, int from, int to) {
  const float* scores = s->scores + i * kScoreStride;
  uint16_t* out = s->weights + i * kWeightStride;
  const auto scaled = [&](int p) {
    const __m512 x = _mm512_load_ps(scores + p);
    return format == kKvInt8 ? _mm512_mul_ps(x, _mm512_load_ps(s->key_scales + p)) : x;
  };
  if (first >= end) {
    for (int p = 16 * from; p < 16 * to; p += 32) _mm512_store_si512(out + p, _mm512_setzero_si512());
    return;
  }
  __m512 greatest = _mm512_set1_ps(kNothing), other = greatest;
  for (int p = 16 * from; p < 16 * to; p += 32) {
    const uint32_t seen = bits(first - p, end - p);
    greatest = _mm512_mask_max_ps(greatest, (__mmask16)seen, greatest, scaled(p));
    other = _mm512_mask_max_ps(other, (__mmask16)(seen >> 16), other, scaled(p + 16));
  }
  float* peak = s->peak + row + i;
  const float before = *peak, here = __builtin_ceilf(_mm512_reduce_max_ps(_mm512_max_ps(greatest, other)));
  *peak = here > before ? here : before;
  const Power power = Power::of(*peak);
  __m512 sum = _mm512_setzero_ps(), sum1 = sum;
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int p = 16 * from; p < 16 * to; p += 32) {
    const uint32_t seen = bits(first - p, end - p);
    __m512 low = power(scaled(p), (__mmask16)seen), high = power(scaled(p + 16), (__mmask16)(seen >> 16));
    if constexpr (format == kKvInt8) {
      sum = _mm512_add_ps(sum, low);
      sum1 = _mm512_add_ps(sum1, high);
      low = _mm512_mul_ps(low, _mm512_load_ps(s->value_scales + p));
      high = _mm512_mul_ps(high, _mm512_load_ps(s->value_scales + p + 16));
    }
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    if constexpr (format != kKvInt8) sum = _mm512_dpbf16_ps(sum, both, ones);
    _mm512_store_si512(out + p, (__m512i)both);
  }
  const float factor = rescale(before, *peak);
  float* weight = s->weight + row + i;
  *weight = __builtin_fmaf(*weight, factor, sum_by_halves(_mm512_add_ps(sum, sum1)));
  if (factor == 1.0f) return;
  float* sums = s->sums + (size_t)(row + i) * s->value_dims;
  const __m512 f = _mm512_set1_ps(factor);
  for (int d = 0; d < s->value_dims; d += 16) _mm512_store_ps(sums + d, _mm512_mul_ps(_mm512_load_ps(sums + d), f));
}

// Rows [row, row + count) over the chunk, which is gathered as far as they see.
template <int format>
ASHLAR_INLINE void walk(State* s, int row, int count, int chunk) {
  const AttentionJob* job = s->job;
  int lowest = job->position[row], last = lowest;
  for (int r = row; r < row + count; ++r) {
    lowest = least(lowest, job->position[r]);
    last = most(last, job->position[r]);
  }
  const int first = job->window > lowest ? 0 : lowest - job->window + 1;
  const int from = most(0, first - chunk) / kKvBlock, to = least(kChunkBlocks, (last - chunk) / kKvBlock + 1);
  if (last < chunk || from >= to) return;
  configure(s, count);
  if (count > kTileRows)
    score<true>(s, row, from, to);
  else
    score<false>(s, row, from, to);
  const int even = from & ~1, end = up_to(to, 2);
  for (int i = 0; i < count; ++i) {
    const int position = job->position[row + i];
    const int begin = job->window > position ? 0 : position - job->window + 1;
    weigh<format>(s, row, i, most(begin - chunk, 0), least(position + 1 - chunk, kKvChunk), even, end);
  }
  if (count > kTileRows)
    add_values<true>(s, row, even, end);
  else
    add_values<false>(s, row, even, end);
}

template <int format>
ASHLAR_INLINE void gather(State* s, const int* blocks, int chunk, int from, int limit) {
  const int to = least(kChunkBlocks, (limit - chunk + kKvBlock - 1) / kKvBlock);
  if (from >= to) return;
  gather_keys<format>(s, blocks, chunk, from, to);
  gather_values<format>(s, blocks, chunk, from, up_to(to, 2), limit);
}

// One chunk: what all sequences share is gathered once, then what each has of its own.
template <int format>
ASHLAR_INLINE void attend_chunk(State* s, int chunk) {
  const AttentionJob* job = s->job;
  const int shared = least(job->shared - chunk, kKvChunk);
  if (shared > 0) gather<format>(s, job->blocks[0], chunk, 0, chunk + shared);
  const bool together = shared == kKvChunk;
  for (int row = 0, end; row < job->rows; row = end) {
    int limit = 0;
    for (end = row; end < job->rows && (together || job->blocks[end] == job->blocks[row]); ++end)
      limit = most(limit, job->position[end] + 1);
    if (!together) {
      limit = least(limit, chunk + kKvChunk);
      if (limit > chunk) gather<format>(s, job->blocks[row], chunk, most(0, shared) / kKvBlock, limit);
    }
    for (; row < end; row += kTogether) walk<format>(s, row, least(kTogether, end - row), chunk);
  }
}

// What a row found, both over their own peaks. `later` comes behind.
ASHLAR_INLINE void join_one(float* sums, float* peak, float* weight, const float* later, float later_peak,
                            float later_weight, int n) {
  if (later_peak == kNothing) return;
  const float both = *peak > later_peak ? *peak : later_peak;
  const float mine = rescale(*peak, both), theirs = rescale(later_peak, both);
  const __m512 m = _mm512_set1_ps(mine), t = _mm512_set1_ps(theirs);
  for (int d = 0; d < n; d += 16) {
    const __mmask16 lanes = n - d >= 16 ? 0xffff : 0xff;
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, later + d), t);
    _mm512_mask_storeu_ps(sums + d, lanes, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, sums + d), m, x));
  }
  *weight = __builtin_fmaf(*weight, mine, later_weight * theirs);
  *peak = both;
}

ASHLAR_INLINE void finish_one(float weight, int n, float* sums) {
  const __m512 inverse = _mm512_set1_ps(1.0f / weight);
  for (int d = 0; d < n; d += 16) {
    const __mmask16 lanes = n - d >= 16 ? 0xffff : 0xff;
    _mm512_mask_storeu_ps(sums + d, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, sums + d), inverse));
  }
}

ASHLAR_INLINE void prepare(State* s, const AttentionJob* job) {
  s->job = job;
  s->key_dims = up_to(job->head_dim, 32);
  s->value_dims = up_to(job->head_dim, 16);
  s->q_stride = s->key_dims + 32;
  s->configured = 0;
  uint8_t* scratch = job->scratch;
  const auto take = [&](size_t bytes) {
    uint8_t* taken = scratch;
    scratch += bytes;
    return taken;
  };
  s->scores = (float*)take(kTogether * kScoreStride * 4);
  s->weights = (uint16_t*)take(kTogether * kWeightStride * 2);
  s->q = (uint16_t*)take((size_t)job->rows * s->q_stride * 2);
  s->sums = (float*)take((size_t)job->rows * s->value_dims * 4);
  s->keys = take((size_t)kKvChunk * s->key_dims * 2);
  s->values = take((size_t)kKvChunk * s->value_dims * 2);
  const __m512 scale = _mm512_set1_ps(job->scale * kLog2E);
  for (int r = 0; r < job->rows; ++r) {
    for (int d = 0; d < s->key_dims; d += 16) {
      const uint32_t lanes = bits(0, job->head_dim - d);
      const __m512 q = _mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16)lanes, job->q[r] + d), scale);
      _mm256_store_si256((__m256i*)(s->q + r * s->q_stride + d), (__m256i)_mm512_cvtneps_pbh(q));
    }
    s->total_peak[r] = kNothing;
    s->total_weight[r] = 0;
    for (int d = 0; d < job->head_dim; ++d) job->out[r][d] = 0;
  }
}

template <int format>
static void attend_any(const AttentionJob* job) {
  State s;
  prepare(&s, job);
  int lowest = job->position[0], last = lowest;
  for (int r = 0; r < job->rows; ++r) {
    lowest = least(lowest, job->position[r]);
    last = most(last, job->position[r]);
  }
  const int first = most(job->begin, job->window > lowest ? 0 : lowest - job->window + 1);
  last = least(last, job->end - 1);
  for (int split = first / kKvSplit * kKvSplit; split <= last; split += kKvSplit) {
    for (int i = 0; i < job->rows * s.value_dims; i += 16) _mm512_store_ps(s.sums + i, _mm512_setzero_ps());
    for (int r = 0; r < job->rows; ++r) {
      s.peak[r] = kNothing;
      s.weight[r] = 0;
    }
    for (int chunk = most(split, first / kKvChunk * kKvChunk); chunk <= last && chunk < split + kKvSplit;
         chunk += kKvChunk)
      attend_chunk<format>(&s, chunk);
    for (int r = 0; r < job->rows; ++r)
      join_one(job->out[r], s.total_peak + r, s.total_weight + r, s.sums + (size_t)r * s.value_dims, s.peak[r],
               s.weight[r], job->head_dim);
  }
  _tile_release();
  for (int r = 0; r < job->rows; ++r) {
    if (job->finish) {
      finish_one(s.total_weight[r], job->head_dim, job->out[r]);
    } else {
      job->out[r][job->head_dim] = s.total_peak[r];
      job->out[r][job->head_dim + 1] = s.total_weight[r];
    }
  }
}

// Sixteen floats to two bytes each, to nearest even; f16 clamped to its range.
ASHLAR_INLINE __m256i narrowed(__m512 v, int format) {
  if (format == kKvBF16) return (__m256i)_mm512_cvtneps_pbh(v);
  const __m512 bound = _mm512_set1_ps(65504.0f);
  // Not-a-number stays: min and max give their second operand then.
  v = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), bound), _mm512_min_ps(bound, v));
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

}  // namespace

void attend(const AttentionJob* job) {
  if (job->format == kKvInt8)
    attend_any<kKvInt8>(job);
  else if (job->format == kKvBF16)
    attend_any<kKvBF16>(job);
  else
    attend_any<kKvF16>(job);
}

void join(const float* partials, int count, int head_dim, float* out) {
  float peak = kNothing, weight = 0;
  for (int d = 0; d < head_dim; ++d) out[d] = 0;
  for (int i = 0; i < count; ++i, partials += head_dim + kPartialExtra)
    join_one(out, &peak, &weight, partials, partials[head_dim], partials[head_dim + 1], head_dim);
  finish_one(weight, head_dim, out);
}

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
