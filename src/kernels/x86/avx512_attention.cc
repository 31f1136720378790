// Attention over one KV head, AVX-512, up to 16 rows (query heads of one KV
// group times positions of one sequence) at a time. Scores: a lane is a
// position. Sums of values: a lane is an element of the head. Each key and value
// is widened once for all these rows.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

constexpr int kRows = 16;
constexpr float kNothing = -__builtin_inff();

ASHLAR_INLINE __mmask16 first_lanes(int count) { return count >= 16 ? (__mmask16)0xffff : (__mmask16)0xff; }

// Sixteen elements, or the first eight; int8 codes are not yet scaled.
template <int format>
ASHLAR_INLINE __m512 widened(const uint8_t* p, __mmask16 lanes) {
  if constexpr (format == kKvInt8) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, p)));
  const __m256i v = _mm256_maskz_loadu_epi16(lanes, p);
  if constexpr (format == kKvBF16) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  return _mm512_cvtph_ps(v);
}

// The scales of int8 stand behind the codes of 16 positions.
ASHLAR_INLINE const float* scales_of(const uint8_t* p, int head_dim) { return (const float*)(p + head_dim * kKvBlock); }

// Some rows of a job, of one sequence, and what is kept while they walk the positions.
struct State {
  const AttentionJob* job;
  const int* blocks;
  int position[kRows];
  int padded;      // head_dim up to whole vectors
  float* q;        // [head_dim][R], scaled
  float* scores;   // [R][kKvChunk]
  float* sums;     // [R][padded], of this split
  float* weights;  // [R][16]
  float* totals;   // [R][padded], of the splits before
  float peak[kRows];
  float total_peak[kRows], total_weight[kRows];
};

// Scores of R rows for B consecutive blocks, masked to what each row sees.
template <int format, int R, int B>
ASHLAR_INLINE void score(const State* s, int block, int chunk) {
  constexpr int kLine = format == kKvInt8 ? 16 : 32;
  const AttentionJob* job = s->job;
  const uint8_t* keys[B];
  ASHLAR_UNROLL for (int b = 0; b < B; ++b) keys[b] = job->keys + (size_t)s->blocks[block + b] * job->block_bytes;
  __m512 sums[B][R];
  ASHLAR_UNROLL for (int b = 0; b < B; ++b) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[b][r] = _mm512_setzero_ps();
  const float* q = s->q;
#pragma clang loop unroll(disable)
  for (int d = 0; d < job->head_dim; ++d, q += R) {
    __m512 k[B];
    ASHLAR_UNROLL for (int b = 0; b < B; ++b) k[b] = widened<format>(keys[b] + kLine * d, 0xffff);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512 v = _mm512_set1_ps(q[r]);
      ASHLAR_UNROLL for (int b = 0; b < B; ++b) sums[b][r] = _mm512_fmadd_ps(v, k[b], sums[b][r]);
    }
  }
  if constexpr (format == kKvInt8) ASHLAR_UNROLL for (int b = 0; b < B; ++b) {
      const __m512 scales = _mm512_loadu_ps(scales_of(keys[b], job->head_dim));
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[b][r] = _mm512_mul_ps(sums[b][r], scales);
    }
  const __m512 nothing = _mm512_set1_ps(kNothing);
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  ASHLAR_UNROLL for (int b = 0; b < B; ++b) {
    const __m512i position = _mm512_add_epi32(lane, _mm512_set1_epi32((block + b) * kKvBlock));
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512i last = _mm512_set1_epi32(s->position[r]);
      const __mmask16 seen = _mm512_cmple_epi32_mask(position, last) &
                             _mm512_cmplt_epi32_mask(_mm512_sub_epi32(last, position), _mm512_set1_epi32(job->window));
      float* out = s->scores + r * kKvChunk + (block + b) * kKvBlock - chunk;
      _mm512_storeu_ps(out, _mm512_mask_mov_ps(nothing, seen, sums[b][r]));
    }
  }
}

// The chunk's scores of row r to weights, the sums so far brought to the new peak.
ASHLAR_INLINE void weigh(State* s, int r, int from, int to) {
  float* scores = s->scores + r * kKvChunk;
  if (const float cap = s->job->cap; cap > 0)
    for (int i = from; i < to; i += 16) _mm512_storeu_ps(scores + i, capped(_mm512_loadu_ps(scores + i), cap));
  __m512 greatest = _mm512_set1_ps(s->peak[r]);
  for (int i = from; i < to; i += 16) greatest = _mm512_max_ps(greatest, _mm512_loadu_ps(scores + i));
  const float peak = _mm512_reduce_max_ps(greatest);
  // A row that sees nothing yet has no peak: any finite number gives weights of zero.
  const __m512 shift = _mm512_set1_ps(peak == kNothing ? 0.0f : peak);
  const __m512 factor = exponential(_mm512_sub_ps(_mm512_set1_ps(s->peak[r]), shift));
  s->peak[r] = peak;
  __m512 weights = _mm512_mul_ps(_mm512_loadu_ps(s->weights + 16 * r), factor);
  for (int i = from; i < to; i += 16) {
    const __m512 w = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift));
    _mm512_storeu_ps(scores + i, w);
    weights = _mm512_add_ps(weights, w);
  }
  _mm512_storeu_ps(s->weights + 16 * r, weights);
  float* sums = s->sums + r * s->padded;
  for (int d = 0; d < s->padded; d += 16) _mm512_storeu_ps(sums + d, _mm512_mul_ps(_mm512_loadu_ps(sums + d), factor));
}

// Adds the weighted values of positions [begin, end) to 16 V elements of the sums.
template <int format, int R, int V>
ASHLAR_INLINE void add_values(const State* s, int dim, int begin, int end, int chunk) {
  constexpr int kBytes = format == kKvInt8 ? 1 : 2;
  const AttentionJob* job = s->job;
  __m512 sums[R][V];
  __mmask16 lanes[V];
  ASHLAR_UNROLL for (int v = 0; v < V; ++v) lanes[v] = first_lanes(job->head_dim - dim - 16 * v);
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] =
      _mm512_loadu_ps(s->sums + r * s->padded + dim + 16 * v);
  for (int block = begin / kKvBlock; block * kKvBlock < end; ++block) {
    const uint8_t* base = job->values + (size_t)s->blocks[block] * job->block_bytes;
    const uint8_t* values = base + kBytes * dim;
    const float* scales = scales_of(base, job->head_dim);
    const float* weights = s->scores + block * kKvBlock - chunk;
    const int count = least(kKvBlock, end - block * kKvBlock);
#pragma clang loop unroll(disable)
    for (int p = 0; p < count; ++p, values += kBytes * job->head_dim, ++weights) {
      __m512 x[V];
      ASHLAR_UNROLL for (int v = 0; v < V; ++v) x[v] = widened<format>(values + 16 * kBytes * v, lanes[v]);
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
        __m512 w = _mm512_set1_ps(weights[r * kKvChunk]);
        if constexpr (format == kKvInt8) w = _mm512_mul_ps(w, _mm512_set1_ps(scales[p]));
        ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] = _mm512_fmadd_ps(w, x[v], sums[r][v]);
      }
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v)
      _mm512_storeu_ps(s->sums + r * s->padded + dim + 16 * v, sums[r][v]);
}

// What a row found, n elements of sums: both over their own peaks. `later` comes behind.
ASHLAR_INLINE void join_one(float* sums, float* peak, float* weight, const float* later, float later_peak,
                            float later_weight, int n) {
  if (later_peak == kNothing) return;
  const bool first = *peak == kNothing;
  const float both = *peak > later_peak ? *peak : later_peak;
  const __m512 mine = exponential(_mm512_set1_ps(*peak - both)),
               theirs = exponential(_mm512_set1_ps(later_peak - both));
  for (int d = 0; d < n; d += 16) {
    const __mmask16 lanes = first_lanes(n - d);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, later + d);
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, sums + d), mine, _mm512_mul_ps(x, theirs));
    _mm512_mask_storeu_ps(sums + d, lanes, first ? x : sum);
  }
  const __m512 w = _mm512_fmadd_ps(_mm512_set1_ps(*weight), mine, _mm512_mul_ps(_mm512_set1_ps(later_weight), theirs));
  *weight = first ? later_weight : _mm512_cvtss_f32(w);
  *peak = both;
}

ASHLAR_INLINE void finish_one(const float* sums, float weight, int n, float* out) {
  const __m512 inverse = _mm512_set1_ps(1.0f / weight);
  for (int d = 0; d < n; d += 16) {
    const __mmask16 lanes = first_lanes(n - d);
    _mm512_mask_storeu_ps(out + d, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, sums + d), inverse));
  }
}

// Positions [first, last], within one split.
template <int format, int R>
ASHLAR_INLINE void attend_split(State* s, int first, int last) {
  constexpr int B = R >= 16 ? 1 : R >= 8 ? 2 : 4;  // blocks scored together
  constexpr int V = R >= 16 ? 1 : R >= 8 ? 2 : 4;  // vectors of value elements summed together
  for (int r = 0; r < R; ++r) s->peak[r] = kNothing;
  for (int i = 0; i < R * s->padded; ++i) s->sums[i] = 0;
  for (int i = 0; i < R * 16; ++i) s->weights[i] = 0;
  for (int chunk = first / kKvChunk * kKvChunk; chunk <= last; chunk += kKvChunk) {
    const int begin = most(first, chunk) / kKvBlock, end = least(last / kKvBlock + 1, (chunk + kKvChunk) / kKvBlock);
    int block = begin;
    for (; block + B <= end; block += B) score<format, R, B>(s, block, chunk);
    if constexpr (B > 1)
      for (; block < end; ++block) score<format, R, 1>(s, block, chunk);
    for (int r = 0; r < R; ++r) weigh(s, r, begin * kKvBlock - chunk, end * kKvBlock - chunk);
    const int stop = least(last + 1, chunk + kKvChunk);
    int dim = 0;
    for (; dim + 16 * V <= s->padded; dim += 16 * V) add_values<format, R, V>(s, dim, begin * kKvBlock, stop, chunk);
    if constexpr (V > 1)
      for (; dim < s->padded; dim += 16) add_values<format, R, 1>(s, dim, begin * kKvBlock, stop, chunk);
  }
  for (int r = 0; r < R; ++r)
    join_one(s->totals + r * s->padded, s->total_peak + r, s->total_weight + r, s->sums + r * s->padded, s->peak[r],
             sum_by_halves(_mm512_loadu_ps(s->weights + 16 * r)), s->padded);
}

// Rows [row, row + count) of the job.
template <int format, int R>
static void attend_rows(const AttentionJob* job, int row, int count) {
  State s;
  s.job = job;
  s.blocks = job->blocks[row];
  s.padded = (job->head_dim + 15) / 16 * 16;
  s.q = (float*)job->scratch;
  s.sums = s.q + kRows * kMaxHeadDim;
  s.totals = s.sums + kRows * kMaxHeadDim;
  s.scores = s.totals + kRows * kMaxHeadDim;
  s.weights = s.scores + kRows * kKvChunk;
  int first = job->position[row], last = first;
  for (int r = 0; r < R; ++r) {
    s.position[r] = job->position[r < count ? row + r : row];
    s.total_peak[r] = kNothing;
    s.total_weight[r] = 0;
    for (int d = 0; d < job->head_dim; ++d) s.q[d * R + r] = r < count ? job->q[row + r][d] * job->scale : 0.0f;
    for (int d = 0; d < s.padded; ++d) s.totals[r * s.padded + d] = 0;
    first = least(first, s.position[r]);
    last = most(last, s.position[r]);
  }
  first = most(job->begin, job->window > first ? 0 : first - job->window + 1);
  last = least(last, job->end - 1);
  for (int split = first / kKvSplit * kKvSplit; split <= last; split += kKvSplit)
    attend_split<format, R>(&s, most(first, split), least(last, split + kKvSplit - 1));
  for (int r = 0; r < count; ++r) {
    float* out = job->out[row + r];
    const float* totals = s.totals + r * s.padded;
    if (job->finish) {
      finish_one(totals, s.total_weight[r], job->head_dim, out);
      continue;
    }
    for (int d = 0; d < job->head_dim; ++d) out[d] = totals[d];
    out[job->head_dim] = s.total_peak[r];
    out[job->head_dim + 1] = s.total_weight[r];
  }
}

template <int format>
ASHLAR_INLINE void attend_any(const AttentionJob* job) {
  for (int row = 0, count; row < job->rows; row += count) {
    count = 1;
    while (count < kRows && row + count < job->rows && job->blocks[row + count] == job->blocks[row]) ++count;
    if (count > 8)
      attend_rows<format, 16>(job, row, count);
    else if (count > 4)
      attend_rows<format, 8>(job, row, count);
    else if (count > 2)
      attend_rows<format, 4>(job, row, count);
    else if (count > 1)
      attend_rows<format, 2>(job, row, count);
    else
      attend_rows<format, 1>(job, row, count);
  }
}

// Sixteen floats to two bytes each, to nearest even; f16 clamped to its range.
ASHLAR_INLINE __m256i narrowed(__m512 v, int format) {
  if (format == kKvBF16) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(64));
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet));
  }
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
  alignas(64) float sums[kMaxHeadDim];
  float peak = kNothing, weight = 0;
  for (int d = 0; d < head_dim; ++d) sums[d] = 0;
  for (int i = 0; i < count; ++i, partials += head_dim + kPartialExtra)
    join_one(sums, &peak, &weight, partials, partials[head_dim], partials[head_dim + 1], head_dim);
  finish_one(sums, weight, head_dim, out);
}

void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot) {
  const Int8Scale scale = format == kKvInt8 ? int8_scale(key, head_dim) : Int8Scale{};
  for (int d = 0; d < head_dim; d += 16) {
    const int count = least(16, head_dim - d);
    const __m512 x = _mm512_maskz_loadu_ps(first_lanes(count), key + d);
    if (format == kKvInt8) {
      alignas(16) uint8_t codes[16];
      _mm_store_si128((__m128i*)codes, int8_codes(x, scale.inverse));
      for (int i = 0; i < count; ++i) keys[(d + i) * kKvBlock + slot] = codes[i];
    } else {
      alignas(32) uint16_t halves[16];
      _mm256_store_si256((__m256i*)halves, narrowed(x, format));
      for (int i = 0; i < count; ++i) ((uint16_t*)keys)[(d + i) * kKvBlock + slot] = halves[i];
    }
  }
  if (format == kKvInt8) ((float*)(keys + head_dim * kKvBlock))[slot] = scale.scale;
}

void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot) {
  const Int8Scale scale = format == kKvInt8 ? int8_scale(value, head_dim) : Int8Scale{};
  for (int d = 0; d < head_dim; d += 16) {
    const __mmask16 lanes = first_lanes(head_dim - d);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, value + d);
    if (format == kKvInt8)
      _mm_mask_storeu_epi8(values + slot * head_dim + d, lanes, int8_codes(x, scale.inverse));
    else
      _mm256_mask_storeu_epi16(values + 2 * (slot * head_dim + d), lanes, narrowed(x, format));
  }
  if (format == kKvInt8) ((float*)(values + head_dim * kKvBlock))[slot] = scale.scale;
}

}  // namespace ashlar::kernels::avx512
