// Attention over one KV head, AVX2: the steps of the AVX-512 file in vectors of
// eight, four rows at a time.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx2 {
namespace {

constexpr int kRows = 4;

template <bool bf16>
ASHLAR_INLINE __m256 widened(const uint8_t* p) {
  const __m128i v = _mm_loadu_si128((const __m128i*)p);
  if constexpr (bf16)
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  else
    return _mm256_cvtph_ps(v);
}

ASHLAR_INLINE int least(int a, int b) { return a < b ? a : b; }
ASHLAR_INLINE int most(int a, int b) { return a > b ? a : b; }

// What a job keeps of up to four rows while it walks the positions; carved from its scratch.
struct State {
  float* q;        // [head_dim][kRows], scaled
  float* scores;   // [kRows][kKvChunk]
  float* sums;     // [kRows][head_dim]
  float* weights;  // [kRows][16]
  float peak[kRows];
  int position[kRows];
};

// Scores of one block, masked to what each row sees.
template <bool bf16>
ASHLAR_INLINE void score(const AttentionJob* job, const State* s, int block, int chunk) {
  const uint8_t* keys = job->keys + (size_t)job->blocks[block] * job->block_bytes;
  __m256 sums[kRows][2];
  ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  for (int d = 0; d < job->head_dim; ++d, keys += 32) {
    const __m256 low = widened<bf16>(keys), high = widened<bf16>(keys + 16);
    ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256 q = _mm256_broadcast_ss(s->q + kRows * d + r);
      sums[r][0] = _mm256_fmadd_ps(q, low, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(q, high, sums[r][1]);
    }
  }
  const __m256 nothing = _mm256_set1_ps(-__builtin_inff());
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
  __m256 greatest = _mm256_set1_ps(s->peak[r]);
  for (int i = from; i < to; i += 8) greatest = _mm256_max_ps(greatest, _mm256_loadu_ps(scores + i));
  const float peak = greatest_of(greatest);
  // A row that sees nothing yet has no peak: any finite number gives weights of zero.
  const __m256 shift = _mm256_set1_ps(peak == -__builtin_inff() ? 0.0f : peak);
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
template <bool bf16, int V>
ASHLAR_INLINE void add_values(const AttentionJob* job, const State* s, int dim, int begin, int end, int chunk) {
  __m256 sums[kRows][V];
  ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] =
      _mm256_loadu_ps(s->sums + r * job->head_dim + dim + 8 * v);
  for (int block = begin / kKvBlock; block * kKvBlock < end; ++block) {
    const uint8_t* values = job->values + (size_t)job->blocks[block] * job->block_bytes + 2 * dim;
    const float* weights = s->scores + block * kKvBlock - chunk;
    const int count = least(kKvBlock, end - block * kKvBlock);
    for (int p = 0; p < count; ++p, values += 2 * job->head_dim, ++weights) {
      __m256 x[V];
      ASHLAR_UNROLL for (int v = 0; v < V; ++v) x[v] = widened<bf16>(values + 16 * v);
      ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) {
        const __m256 w = _mm256_broadcast_ss(weights + r * kKvChunk);
        ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] = _mm256_fmadd_ps(w, x[v], sums[r][v]);
      }
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < kRows; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v)
      _mm256_storeu_ps(s->sums + r * job->head_dim + dim + 8 * v, sums[r][v]);
}

// Rows [row, row + count) of the job.
template <bool bf16>
static void attend_rows(const AttentionJob* job, int row, int count) {
  State s;
  s.q = job->scratch;
  s.sums = s.q + kRows * kMaxHeadDim;
  s.scores = s.sums + kRows * kMaxHeadDim;
  s.weights = s.scores + kRows * kKvChunk;
  int first = job->position[row], last = first;
  for (int r = 0; r < kRows; ++r) {
    const int real = r < count ? row + r : row;
    s.position[r] = job->position[real];
    s.peak[r] = -__builtin_inff();
    for (int d = 0; d < job->head_dim; ++d) {
      s.q[d * kRows + r] = job->q[real][d] * job->scale;
      s.sums[r * job->head_dim + d] = 0;
    }
    for (int i = 0; i < 16; ++i) s.weights[16 * r + i] = 0;
    first = least(first, s.position[r]);
    last = most(last, s.position[r]);
  }
  first = job->window > first ? 0 : first - job->window + 1;
  for (int chunk = first / kKvChunk * kKvChunk; chunk <= last; chunk += kKvChunk) {
    const int begin = most(first, chunk) / kKvBlock, end = least(last / kKvBlock + 1, (chunk + kKvChunk) / kKvBlock);
    for (int block = begin; block < end; ++block) score<bf16>(job, &s, block, chunk);
    for (int r = 0; r < kRows; ++r) weigh(&s, r, job->head_dim, begin * kKvBlock - chunk, end * kKvBlock - chunk);
    const int stop = least(last + 1, chunk + kKvChunk);
    int dim = 0;
    for (; dim + 16 <= job->head_dim; dim += 16) add_values<bf16, 2>(job, &s, dim, begin * kKvBlock, stop, chunk);
    if (dim < job->head_dim) add_values<bf16, 1>(job, &s, dim, begin * kKvBlock, stop, chunk);
  }
  for (int r = 0; r < count; ++r) {
    const float* w = s.weights + 16 * r;
    const __m256 inverse = _mm256_set1_ps(1.0f / sum_by_halves(_mm256_loadu_ps(w), _mm256_loadu_ps(w + 8)));
    const float* sums = s.sums + r * job->head_dim;
    for (int d = 0; d < job->head_dim; d += 8)
      _mm256_storeu_ps(job->out[row + r] + d, _mm256_mul_ps(_mm256_loadu_ps(sums + d), inverse));
  }
}

// Eight floats to two bytes each, to nearest even; f16 clamped to its range.
ASHLAR_INLINE __m128i narrowed(__m256 v, int bf16) {
  if (bf16) {
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

}  // namespace

void attend(const AttentionJob* job) {
  for (int row = 0; row < job->rows; row += kRows) {
    const int count = least(kRows, job->rows - row);
    job->bf16 ? attend_rows<true>(job, row, count) : attend_rows<false>(job, row, count);
  }
}

void store_key(const float* key, int head_dim, int bf16, uint8_t* block, int slot) {
  uint16_t* out = (uint16_t*)block + slot;
  for (int d = 0; d < head_dim; d += 8) {
    uint16_t halves[8];
    _mm_storeu_si128((__m128i*)halves, narrowed(_mm256_loadu_ps(key + d), bf16));
    for (int i = 0; i < 8; ++i, out += kKvBlock) *out = halves[i];
  }
}

void store_value(const float* value, int head_dim, int bf16, uint8_t* block, int slot) {
  uint16_t* out = (uint16_t*)block + slot * head_dim;
  for (int d = 0; d < head_dim; d += 8)
    _mm_storeu_si128((__m128i*)(out + d), narrowed(_mm256_loadu_ps(value + d), bf16));
}

}  // namespace ashlar::kernels::avx2
