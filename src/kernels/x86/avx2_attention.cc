// Attention over one KV head, AVX2: the steps of the AVX-512 file in vectors of
// eight, four rows at a time.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

constexpr int kRows = 4;
constexpr float kNothing = -__builtin_inff();

// Eight elements; int8 codes are not yet scaled.
template <int format>
ASHLAR_INLINE __m256 widened(const uint8_t* p) {
  if constexpr (format == kKvInt8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  const __m128i v = _mm_loadu_si128((const __m128i*)p);
  if constexpr (format == kKvBF16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  return _mm256_cvtph_ps(v);
}

// The scales of int8 stand behind the codes of 16 positions.
ASHLAR_INLINE const float* scales_of(const uint8_t* p, int head_dim) { return (const float*)(p + head_dim * kKvBlock); }

ASHLAR_INLINE int least(int a, int b) { return a < b ? a : b; }
ASHLAR_INLINE int most(int a, int b) { return a > b ? a : b; }

// Up to four rows of a job, of one sequence, and what is kept while they walk the positions.
struct State {
  const AttentionJob* job;
  const int* blocks;
  float* q;        // [head_dim][kRows], scaled
  float* scores;   // [kRows][kKvChunk]
  float* sums;     // [kRows][head_dim], of this split
  float* weights;  // [kRows][16]
  float* totals;   // [kRows][head_dim], of the splits before
  float peak[kRows];
  float total_peak[kRows], total_weight[kRows];
  int position[kRows];
};

// Scores of one block, masked to what each row sees.
template <int format>
ASHLAR_INLINE void score(const State* s, int block, int chunk) {
  constexpr int kLine = format == kKvInt8 ? 16 : 32;
  const AttentionJob* job = s->job;
  const uint8_t* keys = job->keys + (size_t)s->blocks[block] * job->block_bytes;
  const float* scales = scales_of(keys, job->head_dim);
  __m256 sums[kRows][2];
  ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int d = 0; d < job->head_dim; ++d, keys += kLine) {
    const __m256 low = widened<format>(keys), high = widened<format>(keys + kLine / 2);
    ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256 q = _mm256_broadcast_ss(s->q + kRows * d + r);
      sums[r][0] = _mm256_fmadd_ps(q, low, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(q, high, sums[r][1]);
    }
  }
  if constexpr (format == kKvInt8) ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) {
      sums[r][0] = _mm256_mul_ps(sums[r][0], _mm256_loadu_ps(scales));
      sums[r][1] = _mm256_mul_ps(sums[r][1], _mm256_loadu_ps(scales + 8));
    }
  const __m256 nothing = _mm256_set1_ps(kNothing);
  ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
    const __m256i position =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(block * kKvBlock + 8 * h));
    ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256i last = _mm256_set1_epi32(s->position[r]);
      const __m256i later = _mm256_cmpgt_epi32(position, last);
      const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(job->window), _mm256_sub_epi32(last, position));
      const __m256 seen = _mm256_castsi256_ps(_mm256_andnot_si256(later, inside));
      float* out = s->scores + r * kKvChunk + block * kKvBlock - chunk + 8 * h;
      _mm256_storeu_ps(out, _mm256_blendv_ps(nothing, sums[r][h], seen));
    }
  }
}

// The chunk's scores of row r to weights, the sums so far brought to the new peak.
ASHLAR_INLINE void weigh(State* s, int r, int head_dim, int from, int to) {
  float* scores = s->scores + r * kKvChunk;
  if (const float cap = s->job->cap; cap > 0)
    for (int i = from; i < to; i += 8) _mm256_storeu_ps(scores + i, capped(_mm256_loadu_ps(scores + i), cap));
  __m256 greatest = _mm256_set1_ps(s->peak[r]);
  for (int i = from; i < to; i += 8) greatest = _mm256_max_ps(greatest, _mm256_loadu_ps(scores + i));
  const float peak = greatest_of(greatest);
  // A row that sees nothing yet has no peak: any finite number gives weights of zero.
  const __m256 shift = _mm256_set1_ps(peak == kNothing ? 0.0f : peak);
  const __m256 factor = exponential(_mm256_sub_ps(_mm256_set1_ps(s->peak[r]), shift));
  s->peak[r] = peak;
  ASHLAR_UNROLL for (int h = 0; h < 2; ++h) {
    __m256 weights = _mm256_mul_ps(_mm256_loadu_ps(s->weights + 16 * r + 8 * h), factor);
    for (int i = from + 8 * h; i < to; i += 16) {
      const __m256 w = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + i), shift));
      _mm256_storeu_ps(scores + i, w);
      weights = _mm256_add_ps(weights, w);
    }
    _mm256_storeu_ps(s->weights + 16 * r + 8 * h, weights);
  }
  float* sums = s->sums + r * head_dim;
  for (int d = 0; d < head_dim; d += 8) _mm256_storeu_ps(sums + d, _mm256_mul_ps(_mm256_loadu_ps(sums + d), factor));
}

// Adds the weighted values of positions [begin, end) to 8 V elements of the sums.
template <int format, int V>
ASHLAR_INLINE void add_values(const State* s, int dim, int begin, int end, int chunk) {
  constexpr int kBytes = format == kKvInt8 ? 1 : 2;
  const AttentionJob* job = s->job;
  __m256 sums[kRows][V];
  ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] =
      _mm256_loadu_ps(s->sums + r * job->head_dim + dim + 8 * v);
  for (int block = begin / kKvBlock; block * kKvBlock < end; ++block) {
    const uint8_t* base = job->values + (size_t)s->blocks[block] * job->block_bytes;
    const uint8_t* values = base + kBytes * dim;
    const float* scales = scales_of(base, job->head_dim);
    const float* weights = s->scores + block * kKvBlock - chunk;
    const int count = least(kKvBlock, end - block * kKvBlock);
    for (int p = 0; p < count; ++p, values += kBytes * job->head_dim, ++weights) {
      __m256 x[V];
      ASHLAR_UNROLL for (int v = 0; v < V; ++v) x[v] = widened<format>(values + 8 * kBytes * v);
      ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) {
        __m256 w = _mm256_broadcast_ss(weights + r * kKvChunk);
        if constexpr (format == kKvInt8) w = _mm256_mul_ps(w, _mm256_broadcast_ss(scales + p));
        ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] = _mm256_fmadd_ps(w, x[v], sums[r][v]);
      }
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v)
      _mm256_storeu_ps(s->sums + r * job->head_dim + dim + 8 * v, sums[r][v]);
}

// What a row found, both over their own peaks. `later` comes behind.
ASHLAR_INLINE void join_one(float* sums, float* peak, float* weight, const float* later, float later_peak,
                            float later_weight, int n) {
  if (later_peak == kNothing) return;
  const bool first = *peak == kNothing;
  const float both = *peak > later_peak ? *peak : later_peak;
  const __m256 mine = exponential(_mm256_set1_ps(*peak - both)),
               theirs = exponential(_mm256_set1_ps(later_peak - both));
  for (int d = 0; d < n; d += 8) {
    const __m256 x = _mm256_loadu_ps(later + d);
    const __m256 sum = _mm256_fmadd_ps(_mm256_loadu_ps(sums + d), mine, _mm256_mul_ps(x, theirs));
    _mm256_storeu_ps(sums + d, first ? x : sum);
  }
  const __m256 w = _mm256_fmadd_ps(_mm256_set1_ps(*weight), mine, _mm256_mul_ps(_mm256_set1_ps(later_weight), theirs));
  *weight = first ? later_weight : _mm256_cvtss_f32(w);
  *peak = both;
}

ASHLAR_INLINE void finish_one(const float* sums, float weight, int n, float* out) {
  const __m256 inverse = _mm256_set1_ps(1.0f / weight);
  for (int d = 0; d < n; d += 8) _mm256_storeu_ps(out + d, _mm256_mul_ps(_mm256_loadu_ps(sums + d), inverse));
}

// Positions [first, last], within one split.
template <int format>
ASHLAR_INLINE void attend_split(State* s, int first, int last) {
  const int head_dim = s->job->head_dim;
  for (int r = 0; r < kRows; ++r) s->peak[r] = kNothing;
  for (int i = 0; i < kRows * head_dim; ++i) s->sums[i] = 0;
  for (int i = 0; i < kRows * 16; ++i) s->weights[i] = 0;
  for (int chunk = first / kKvChunk * kKvChunk; chunk <= last; chunk += kKvChunk) {
    const int begin = most(first, chunk) / kKvBlock, end = least(last / kKvBlock + 1, (chunk + kKvChunk) / kKvBlock);
    for (int block = begin; block < end; ++block) score<format>(s, block, chunk);
    for (int r = 0; r < kRows; ++r) weigh(s, r, head_dim, begin * kKvBlock - chunk, end * kKvBlock - chunk);
    const int stop = least(last + 1, chunk + kKvChunk);
    int dim = 0;
    for (; dim + 16 <= head_dim; dim += 16) add_values<format, 2>(s, dim, begin * kKvBlock, stop, chunk);
    if (dim < head_dim) add_values<format, 1>(s, dim, begin * kKvBlock, stop, chunk);
  }
  for (int r = 0; r < kRows; ++r) {
    const float* w = s->weights + 16 * r;
    join_one(s->totals + r * head_dim, s->total_peak + r, s->total_weight + r, s->sums + r * head_dim, s->peak[r],
             sum_by_halves(_mm256_loadu_ps(w), _mm256_loadu_ps(w + 8)), head_dim);
  }
}

// Rows [row, row + count) of the job.
template <int format>
static void attend_rows(const AttentionJob* job, int row, int count) {
  State s;
  s.job = job;
  s.blocks = job->blocks[row];
  s.q = (float*)job->scratch;
  s.sums = s.q + kRows * kMaxHeadDim;
  s.totals = s.sums + kRows * kMaxHeadDim;
  s.scores = s.totals + kRows * kMaxHeadDim;
  s.weights = s.scores + kRows * kKvChunk;
  int first = job->position[row], last = first;
  for (int r = 0; r < kRows; ++r) {
    const int real = r < count ? row + r : row;
    s.position[r] = job->position[real];
    s.total_peak[r] = kNothing;
    s.total_weight[r] = 0;
    for (int d = 0; d < job->head_dim; ++d) {
      s.q[d * kRows + r] = job->q[real][d] * job->scale;
      s.totals[r * job->head_dim + d] = 0;
    }
    first = least(first, s.position[r]);
    last = most(last, s.position[r]);
  }
  first = most(job->begin, job->window > first ? 0 : first - job->window + 1);
  last = least(last, job->end - 1);
  for (int split = first / kKvSplit * kKvSplit; split <= last; split += kKvSplit)
    attend_split<format>(&s, most(first, split), least(last, split + kKvSplit - 1));
  for (int r = 0; r < count; ++r) {
    float* out = job->out[row + r];
    const float* totals = s.totals + r * job->head_dim;
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
    attend_rows<format>(job, row, count);
  }
}

// Eight floats to two bytes each, to nearest even; f16 clamped to its range.
ASHLAR_INLINE __m128i narrowed(__m256 v, int format) {
  if (format == kKvBF16) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i high = _mm256_srli_epi32(bits, 16), odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(64));
    const __m256i words = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  // Not-a-number stays: min and max give their second operand then.
  v = _mm256_max_ps(_mm256_set1_ps(-65504.0f), _mm256_min_ps(_mm256_set1_ps(65504.0f), v));
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Keys and values as int8: the greatest magnitude is 127, as ref's quantize() has it.
struct Int8Scale {
  float scale, inverse;
};

ASHLAR_INLINE Int8Scale int8_scale(const float* x, int n) {
  __m256 greatest = _mm256_setzero_ps();
  for (int i = 0; i < n; i += 8)
    greatest = _mm256_max_ps(absolute(_mm256_loadu_ps(x + i)), greatest);  // not a number: it stays
  float value = greatest_of(greatest);
  value = value < __FLT_MAX__ ? value : __FLT_MAX__;
  if (value < kLeastInt8) return {0, 0};
  return {value / 127.0f, 127.0f / value};
}

// Eight codes.
ASHLAR_INLINE __m128i int8_codes(__m256 x, float inverse) {
  const __m256 scaled = _mm256_mul_ps(x, _mm256_set1_ps(inverse));
  const __m256i codes =
      _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(scaled, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f)));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  return _mm_packs_epi16(words, words);
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
  alignas(32) float sums[kMaxHeadDim];
  float peak = kNothing, weight = 0;
  for (int d = 0; d < head_dim; ++d) sums[d] = 0;
  for (int i = 0; i < count; ++i, partials += head_dim + kPartialExtra)
    join_one(sums, &peak, &weight, partials, partials[head_dim], partials[head_dim + 1], head_dim);
  finish_one(sums, weight, head_dim, out);
}

void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot) {
  const Int8Scale scale = format == kKvInt8 ? int8_scale(key, head_dim) : Int8Scale{};
  for (int d = 0; d < head_dim; d += 8) {
    const __m256 x = _mm256_loadu_ps(key + d);
    if (format == kKvInt8) {
      alignas(16) uint8_t codes[16];
      _mm_store_si128((__m128i*)codes, int8_codes(x, scale.inverse));
      for (int i = 0; i < 8; ++i) keys[(d + i) * kKvBlock + slot] = codes[i];
    } else {
      alignas(16) uint16_t halves[8];
      _mm_store_si128((__m128i*)halves, narrowed(x, format));
      for (int i = 0; i < 8; ++i) ((uint16_t*)keys)[(d + i) * kKvBlock + slot] = halves[i];
    }
  }
  if (format == kKvInt8) ((float*)(keys + head_dim * kKvBlock))[slot] = scale.scale;
}

void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot) {
  const Int8Scale scale = format == kKvInt8 ? int8_scale(value, head_dim) : Int8Scale{};
  for (int d = 0; d < head_dim; d += 8) {
    const __m256 x = _mm256_loadu_ps(value + d);
    if (format == kKvInt8)
      _mm_storel_epi64((__m128i*)(values + slot * head_dim + d), int8_codes(x, scale.inverse));
    else
      _mm_storeu_si128((__m128i*)(values + 2 * (slot * head_dim + d)), narrowed(x, format));
  }
  if (format == kKvInt8) ((float*)(values + head_dim * kKvBlock))[slot] = scale.scale;
}

}  // namespace ashlar::kernels::avx2
