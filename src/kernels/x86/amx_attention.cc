// Attention over one KV head with tiles of bf16. Rows (query heads of one KV
// group times positions, of one or more sequences) are taken in groups of 16, a
// tile. For each chunk of positions: scores Q K^T by tiles, weights
// 2^(score - peak) by vectors, rounded to bf16, and sums of values P V by tiles
// again. A further value, one everywhere, gives the sum of the very weights that
// were used. Peaks are whole numbers, so that rescaling is exact.
//
// The tile unit and the vector units work at the same time: the scores of the
// next group are computed between the weights of this one.
//
// A tile product is summed in one order for each row, whatever the other rows
// are, and what a row does not see has weight zero: its result is its own.
#include <immintrin.h>

#include "kernels/x86/amx_pages.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::amx {
namespace {

// Tiles 0 to 4: sums of values; 5: the left side; 6: the right side; 7: scores.
ASHLAR_INLINE void configure(State* s, int rows) {
  if (s->configured == rows) return;
  s->configured = rows;
  configure_tiles(rows, 1u << 6);
}

// Up to 16 rows over a chunk.
struct Group {
  int row, count;
  int from, to;          // blocks that some row sees; none if from >= to
  int even, end;         // the same in whole pairs of blocks
  int clear, clear_end;  // pairs of which all rows see all
  float* scores;
};

// The positions of the chunk that a row sees.
struct Seen {
  int from, to;
};

ASHLAR_INLINE Seen seen_by(const AttentionJob* job, int row, int chunk) {
  const int position = job->position[row];
  return {job->window > position - chunk ? 0 : position - chunk - job->window + 1, position + 1 - chunk};
}

ASHLAR_INLINE Group group_at(const State* s, int row, int count, int chunk, float* scores) {
  Seen any = {kChunk, 0}, every = {0, kChunk};  // positions that some, that all of them see
  for (int r = row; r < row + count; ++r) {
    const Seen seen = seen_by(s->job, r, chunk);
    any = {least(any.from, seen.from), most(any.to, seen.to)};
    every = {most(every.from, seen.from), least(every.to, seen.to)};
  }
  Group g = {.row = row, .count = count, .scores = scores};
  g.from = any.from / kKvBlock;
  g.to = least(kChunkBlocks, up_to(most(any.to, 0), kKvBlock) / kKvBlock);
  g.even = g.from & ~1;
  g.end = most(g.even, up_to(g.to, 2));
  g.clear = least(up_to(every.from, 32) / 16, g.end);
  g.clear_end = most(most(every.to, 0) / 32 * 2, g.clear);
  return g;
}

// Scores of block b, if the group sees something of it.
ASHLAR_INLINE void score(const State* s, const Group* g, int b) {
  if (b < g->from || b >= g->to) return;
  const uint16_t* q = s->q + g->row * s->q_stride;
  const long stride = 2 * s->q_stride;
  const uint8_t* k = s->key_tiles[b];
  _tile_zero(7);
  for (int d = 0; d < s->key_dims; d += 32, k += 1024) {
    _tile_loadd(5, q + d, stride);
    _tile_loadd(6, k, 64);
    _tile_dpbf16ps(7, 5, 6);
  }
  _tile_stored(7, g->scores + b * 256, 64);
}

template <int columns>
ASHLAR_INLINE void load_sums(const float* sums, long stride) {
  _tile_loadd(0, sums, stride);
  if constexpr (columns > 1) _tile_loadd(1, sums + 16, stride);
  if constexpr (columns > 2) _tile_loadd(2, sums + 32, stride);
  if constexpr (columns > 3) _tile_loadd(3, sums + 48, stride);
  if constexpr (columns > 4) _tile_loadd(4, sums + 64, stride);
}

template <int columns>
ASHLAR_INLINE void store_sums(float* sums, long stride) {
  _tile_stored(0, sums, stride);
  if constexpr (columns > 1) _tile_stored(1, sums + 16, stride);
  if constexpr (columns > 2) _tile_stored(2, sums + 32, stride);
  if constexpr (columns > 3) _tile_stored(3, sums + 48, stride);
  if constexpr (columns > 4) _tile_stored(4, sums + 64, stride);
}

// Adds the weighted values of 32 positions.
template <int columns>
ASHLAR_INLINE void add_values(const uint16_t* weights, const uint8_t* values) {
  const auto right = [&](int column) { _tile_loadd(6, values + 1024 * column, 64); };
  _tile_loadd(5, weights, 64);
  right(0);
  _tile_dpbf16ps(0, 5, 6);
  if constexpr (columns > 1) {
    right(1);
    _tile_dpbf16ps(1, 5, 6);
  }
  if constexpr (columns > 2) {
    right(2);
    _tile_dpbf16ps(2, 5, 6);
  }
  if constexpr (columns > 3) {
    right(3);
    _tile_dpbf16ps(3, 5, 6);
  }
  if constexpr (columns > 4) {
    right(4);
    _tile_dpbf16ps(4, 5, 6);
  }
}

// 2^(x - peak) for x <= peak, a whole number; relative error 1e-4. The sum x + (kMagic - peak) has the nearest whole
// number to x - peak in its low bits, and the power of two is added to the exponent of 2^fraction.
ASHLAR_INLINE __m512 power_of_two(__m512 x, __m512 magic, __m512 bound) {
  x = _mm512_max_ps(x, bound);
  const __m512 z = _mm512_add_ps(x, magic);
  const __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(z, magic));
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(5.5171711e-2f), f, _mm512_set1_ps(2.4261123e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326099e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992807e-1f));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(z), 23)));
}

// 2^(from - to), both whole numbers, from <= to or minus infinity.
ASHLAR_INLINE float rescale(float from, float to) {
  const __m128 one = _mm_set_ss(1.0f);
  return from == to ? 1.0f : _mm_cvtss_f32(_mm_scalef_ss(one, _mm_set_ss(from - to)));
}

// The greatest of each of 16 vectors, a lane for each: halves are folded until a vector is left.
ASHLAR_INLINE __m512 greatest_of_each(__m512* v) {
  __m512 w[8];
  ASHLAR_UNROLL for (int i = 0; i < 8; ++i) w[i] =
      _mm512_max_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
  // w[i]: lanes 0-7 of row i, 8-15 of row i + 8
  ASHLAR_UNROLL for (int i = 0; i < 4; ++i) v[i] =
      _mm512_max_ps(_mm512_shuffle_f32x4(w[i], w[i + 4], 0x88), _mm512_shuffle_f32x4(w[i], w[i + 4], 0xdd));
  // v[i]: four lanes each of rows i, i + 8, i + 4, i + 12
  ASHLAR_UNROLL for (int i = 0; i < 2; ++i) w[i] =
      _mm512_max_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44), _mm512_shuffle_ps(v[i], v[i + 2], 0xee));
  // w[i]: in each four lanes, two of the row and two of the row 2 on
  const __m512 last = _mm512_max_ps(_mm512_shuffle_ps(w[0], w[1], 0x88), _mm512_shuffle_ps(w[0], w[1], 0xdd));
  // rows 0 2 1 3 | 8 10 9 11 | 4 6 5 7 | 12 14 13 15
  const __m512i order = _mm512_set_epi32(15, 13, 14, 12, 7, 5, 6, 4, 11, 9, 10, 8, 3, 1, 2, 0);
  return _mm512_permutexvar_ps(order, last);
}

// What power_of_two() needs of each row of a group.
struct Shifts {
  alignas(64) float magic[kTileRows], bound[kTileRows];
};

// Of the first `rows` rows; what the others get means nothing.
template <int rows>
ASHLAR_INLINE void look_for_greatest(const Group* g, __m512* greatest) {
  const float* scores = g->scores + g->even * 256;
  ASHLAR_UNROLL for (int i = 0; i < rows; ++i) greatest[i] = _mm512_load_ps(scores + 16 * i);
  ASHLAR_UNROLL for (int i = rows; i < kTileRows; ++i) greatest[i] = greatest[0];
  for (int b = g->even + 1; b < g->end; ++b) {
    scores += 256;
    ASHLAR_UNROLL for (int i = 0; i < rows; ++i) greatest[i] =
        _mm512_max_ps(greatest[i], _mm512_load_ps(scores + 16 * i));
  }
}

// New peaks; the sums so far are brought to these.
ASHLAR_INLINE void raise_peaks(State* s, const Group* g, Shifts* shifts) {
  __m512 greatest[kTileRows];
  if (g->count > kTileRows / 2)
    look_for_greatest<kTileRows>(g, greatest);
  else
    look_for_greatest<kTileRows / 2>(g, greatest);
  const __m512 before = _mm512_loadu_ps(s->peak + g->row);
  const __m512 here = _mm512_roundscale_ps(greatest_of_each(greatest), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
  const __m512 peak = _mm512_max_ps(here, before);
  const __mmask16 mine = (__mmask16)bits(0, g->count);
  _mm512_mask_storeu_ps(s->peak + g->row, mine, peak);
  _mm512_store_ps(shifts->magic, _mm512_sub_ps(_mm512_set1_ps(0x1.8p23f), peak));
  _mm512_store_ps(shifts->bound, _mm512_sub_ps(peak, _mm512_set1_ps(120.0f)));
  const __mmask16 raised = _mm512_mask_cmp_ps_mask(mine, before, peak, _CMP_LT_OQ) &
                           _mm512_cmp_ps_mask(before, _mm512_set1_ps(kNothing), _CMP_GT_OQ);
  if (raised == 0) return;
  alignas(64) float factors[kTileRows];
  _mm512_store_ps(factors, _mm512_scalef_ps(_mm512_set1_ps(1.0f), _mm512_sub_ps(before, peak)));
  for (int i = 0; i < g->count; ++i) {
    if ((raised >> i & 1) == 0) continue;
    float* sums = s->sums + (size_t)(g->row + i) * s->value_dims;
    const __m512 f = _mm512_set1_ps(factors[i]);
    for (int d = 0; d < s->value_dims; d += 16) _mm512_store_ps(sums + d, _mm512_mul_ps(_mm512_load_ps(sums + d), f));
  }
}

// What a row does not see of the pair of blocks at b.
ASHLAR_INLINE uint32_t unseen(const State* s, const Group* g, int i, int b, int chunk) {
  const Seen seen = seen_by(s->job, g->row + i, chunk);
  return ~bits(seen.from - 16 * b, seen.to - 16 * b);
}

ASHLAR_INLINE bool is_clear(const Group* g, int b) { return b >= g->clear && b < g->clear_end; }

ASHLAR_INLINE void hide_scores(const State* s, const Group* g, int chunk) {
  for (int b = g->even; b < g->end; b += 2) {
    if (is_clear(g, b)) continue;
    float* x = g->scores + b * 256;
    for (int i = 0; i < g->count; ++i, x += 16) {
      const uint32_t hidden = unseen(s, g, i, b, chunk);
      _mm512_mask_store_ps(x, (__mmask16)hidden, _mm512_set1_ps(kNothing));
      _mm512_mask_store_ps(x + 256, (__mmask16)(hidden >> 16), _mm512_set1_ps(kNothing));
    }
  }
}

// Scores are logarithms to base 2 here, and so is the cap.
ASHLAR_INLINE void cap_scores(const State* s, const Group* g) {
  const float cap = s->job->cap * kLog2E;
  for (int b = g->from; b < g->to; ++b)
    for (int i = 0; i < g->count; ++i) {
      float* x = g->scores + b * 256 + 16 * i;
      _mm512_store_ps(x, avx512::capped(_mm512_load_ps(x), cap));
    }
}

// Scores of the pair of blocks at b to weights.
ASHLAR_INLINE void weigh_pair(const State* s, const Group* g, const Shifts* shifts, int b, int chunk) {
  const float* x = g->scores + b * 256;
  uint16_t* out = s->weights + b * 256;
  for (int i = 0; i < g->count; ++i, x += 16, out += 32) {
    const __m512 magic = _mm512_set1_ps(shifts->magic[i]), bound = _mm512_set1_ps(shifts->bound[i]);
    const __m512 low = power_of_two(_mm512_load_ps(x), magic, bound);
    const __m512 high = power_of_two(_mm512_load_ps(x + 256), magic, bound);
    _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  if (is_clear(g, b)) return;
  out = s->weights + b * 256;
  for (int i = 0; i < g->count; ++i, out += 32)
    _mm512_mask_storeu_epi16(out, unseen(s, g, i, b, chunk), _mm512_setzero_si512());
}

// Weights and weighted values of a group in the first tiles of values, and the scores of the next.
template <int columns>
static void walk_first(State* s, const Group* g, const Shifts* shifts, const Group* next, int chunk) {
  float* sums = s->sums + (size_t)g->row * s->value_dims;
  const long stride = 4 * s->value_dims;
  load_sums<columns>(sums, stride);
  const int pairs = most(g->end - g->even, next->end - next->even) / 2;
  for (int i = 0; i < pairs; ++i) {
    const int ahead = next->even + 2 * i, b = g->even + 2 * i;
    score(s, next, ahead);
    score(s, next, ahead + 1);
    if (b >= g->end) continue;
    weigh_pair(s, g, shifts, b, chunk);
    add_values<columns>(s->weights + b * 256, s->values + b * 32 * s->value_dims);
  }
  store_sums<columns>(sums, stride);
}

// Weighted values in further tiles, from d on.
template <int columns>
static void walk_further(State* s, const Group* g, int d) {
  float* sums = s->sums + (size_t)g->row * s->value_dims + d;
  const long stride = 4 * s->value_dims;
  load_sums<columns>(sums, stride);
  for (int b = g->even; b < g->end; b += 2)
    add_values<columns>(s->weights + b * 256, s->values + b * 32 * s->value_dims + 64 * d);
  store_sums<columns>(sums, stride);
}

ASHLAR_INLINE void walk(State* s, const Group* g, const Group* next, int chunk) {
  Shifts shifts;
  if (s->job->cap > 0) cap_scores(s, g);
  hide_scores(s, g, chunk);
  raise_peaks(s, g, &shifts);
  const int tiles = s->value_dims / 16;
  switch (least(tiles, kColumns)) {
    case 1:
      walk_first<1>(s, g, &shifts, next, chunk);
      break;
    case 2:
      walk_first<2>(s, g, &shifts, next, chunk);
      break;
    case 3:
      walk_first<3>(s, g, &shifts, next, chunk);
      break;
    case 4:
      walk_first<4>(s, g, &shifts, next, chunk);
      break;
    default:
      walk_first<5>(s, g, &shifts, next, chunk);
  }
  int tile = kColumns;
  for (; tile + 4 <= tiles; tile += 4) walk_further<4>(s, g, 16 * tile);
  for (; tile < tiles; ++tile) walk_further<1>(s, g, 16 * tile);
}

// Blocks of the chunk that are to be gathered.
struct Source {
  const int* blocks;  // of the chunk
  int from, to;
  int limit;  // positions of the chunk that are known
};

template <int format>
ASHLAR_INLINE void gather(State* s, const Source* source, int b) {
  if (b < source->from || b >= up_to(source->to, 2)) return;
  gather_values<format>(s, b < source->to ? source->blocks[b] : 0, b, source->limit - b * kKvBlock);
}

// Gathers blocks and computes the scores of the first group that needs them: block by block, in the order of memory,
// which delivers the next block while this one is worked on once its first lines are asked for.
template <int format>
ASHLAR_INLINE void gather_and_score(State* s, const Group* g, const Source* source) {
  const int begin = source->from < source->to ? least(source->from, g->from) : g->from;
  for (int b = begin; b < most(up_to(source->to, 2), g->to); ++b) {
    const bool mine = b >= source->from && b < source->to;
    if (mine) gather_keys<format>(s, source->blocks[b], b);
    if (b + 1 < source->to) {
      const uint8_t* next = s->job->keys + (size_t)source->blocks[b + 1] * s->job->block_bytes;
      for (int i = 0; i < 16; ++i) _mm_prefetch((const char*)next + 64 * i, _MM_HINT_T0);
    }
    score(s, g, b);
    gather<format>(s, source, b);
  }
}

// Rows [row, end) over the chunk. False: they see nothing of it, and nothing is gathered.
template <int format>
ASHLAR_INLINE bool walk_rows(State* s, int row, int end, int chunk, const Source* source) {
  const Group none = {};
  const Source nothing = {};
  Group now = none;
  for (int turn = 0; row < end || now.count > 0; turn ^= 1) {
    Group next = none;
    while (row < end && next.from >= next.to) {
      const int count = least(kTileRows, end - row);
      next = group_at(s, row, count, chunk, s->scores[turn]);
      row += count;
    }
    if (next.from >= next.to) next = none;
    // A tile that is set up for other rows cannot be worked on in between.
    const bool between = now.count == next.count;
    if (now.count > 0) walk(s, &now, between ? &next : &none, chunk);
    if (next.count > 0 && !between) {
      configure(s, next.count);
      gather_and_score<format>(s, &next, source);
      source = &nothing;
    }
    now = next;
  }
  return source == &nothing;
}

// One chunk: what all sequences share is gathered once, then what each has of its own.
template <int format>
ASHLAR_INLINE void attend_chunk(State* s, int chunk) {
  const AttentionJob* job = s->job;
  const int shared = least(job->shared - chunk, kChunk);
  const bool together = shared == kChunk;
  int from = 0;  // what is not gathered yet for all
  for (int row = 0, end; row < job->rows; row = end) {
    int limit = 0;
    for (end = row; end < job->rows && (together || job->blocks[end] == job->blocks[row]); ++end)
      limit = most(limit, job->position[end] + 1 - chunk);
    if (limit <= 0) continue;
    limit = least(limit, kChunk);
    const Source source = {job->blocks[row] + chunk / kKvBlock, from, up_to(limit, kKvBlock) / kKvBlock, limit};
    if (walk_rows<format>(s, row, end, chunk, &source)) from = most(shared, 0) / kKvBlock;
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
  s->value_dims = up_to(job->head_dim + 1, 16);
  s->q_stride = s->key_dims + 32;
  s->configured = 0;
  s->ones = 0;
  uint8_t* scratch = job->scratch;
  const auto take = [&](size_t bytes) {
    uint8_t* taken = scratch;
    scratch += bytes;
    return taken;
  };
  s->scores[0] = (float*)take(kTileRows * kChunk * 4);
  s->scores[1] = (float*)take(kTileRows * kChunk * 4);
  s->weights = (uint16_t*)take(kTileRows * kChunk * 2);
  s->q = (uint16_t*)take((size_t)job->rows * s->q_stride * 2);
  s->sums = (float*)take((size_t)job->rows * s->value_dims * 4);
  s->keys = take((size_t)kChunk * s->key_dims * 2);
  s->values = take((size_t)kChunk * s->value_dims * 2);
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
    for (int r = 0; r < job->rows; ++r) s.peak[r] = kNothing;
    for (int chunk = most(split, first / kChunk * kChunk); chunk <= last && chunk < split + kKvSplit; chunk += kChunk)
      attend_chunk<format>(&s, chunk);
    for (int r = 0; r < job->rows; ++r) {
      const float* sums = s.sums + (size_t)r * s.value_dims;
      join_one(job->out[r], s.total_peak + r, s.total_weight + r, sums, s.peak[r], sums[job->head_dim], job->head_dim);
    }
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

}  // namespace ashlar::kernels::amx
