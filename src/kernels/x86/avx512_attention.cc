// Attention of up to 16 rows (query heads of one KV group times positions) over
// one KV head, AVX-512. Scores: a lane is a position. Sums of values: a lane is
// an element of the head. Each key and value is widened once for all rows.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::avx512 {
namespace {

template <bool bf16>
ASHLAR_INLINE __m512 widened(__m256i v) {
  if constexpr (bf16)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  else
    return _mm512_cvtph_ps(v);
}

ASHLAR_INLINE int least(int a, int b) { return a < b ? a : b; }
ASHLAR_INLINE int most(int a, int b) { return a > b ? a : b; }

// What one job keeps while it walks the positions; carved from its scratch.
struct State {
  float* q;        // [head_dim][R], scaled
  float* scores;   // [R][kKvChunk]
  float* sums;     // [R][padded head_dim]
  float* weights;  // [R][16]
  float peak[kAttentionRows];
  int padded;  // head_dim up to whole vectors
};

// Scores of R rows for B consecutive blocks, masked to what each row sees.
template <bool bf16, int R, int B>
ASHLAR_INLINE void score(const AttentionJob* job, const State* s, int block, int chunk) {
  const uint8_t* keys[B];
  ASHLAR_UNROLL for (int b = 0; b < B; ++b) keys[b] = job->keys + (size_t)job->blocks[block + b] * job->block_bytes;
  __m512 sums[B][R];
  ASHLAR_UNROLL for (int b = 0; b < B; ++b) ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[b][r] = _mm512_setzero_ps();
  const float* q = s->q;
#pragma clang loop unroll(disable)
  for (int d = 0; d < job->head_dim; ++d, q += R) {
    __m512 k[B];
    ASHLAR_UNROLL for (int b = 0; b < B; ++b) k[b] =
        widened<bf16>(_mm256_loadu_si256((const __m256i*)(keys[b] + 32 * d)));
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512 v = _mm512_set1_ps(q[r]);
      ASHLAR_UNROLL for (int b = 0; b < B; ++b) sums[b][r] = _mm512_fmadd_ps(v, k[b], sums[b][r]);
    }
  }
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff());
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  ASHLAR_UNROLL for (int b = 0; b < B; ++b) {
    const __m512i position = _mm512_add_epi32(lane, _mm512_set1_epi32((block + b) * kKvBlock));
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512i last = _mm512_set1_epi32(job->position[r]);
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
  __m512 greatest = _mm512_set1_ps(s->peak[r]);
  for (int i = from; i < to; i += 16) greatest = _mm512_max_ps(greatest, _mm512_loadu_ps(scores + i));
  const float peak = _mm512_reduce_max_ps(greatest);
  // A row that sees nothing yet has no peak: any finite number gives weights of zero.
  const __m512 shift = _mm512_set1_ps(peak == -__builtin_inff() ? 0.0f : peak);
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
template <bool bf16, int R, int V>
ASHLAR_INLINE void add_values(const AttentionJob* job, const State* s, int dim, int begin, int end, int chunk) {
  __m512 sums[R][V];
  __mmask16 lanes[V];
  ASHLAR_UNROLL for (int v = 0; v < V; ++v) lanes[v] =
      job->head_dim - dim - 16 * v >= 16 ? (__mmask16)0xffff : (__mmask16)0xff;
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] =
      _mm512_loadu_ps(s->sums + r * s->padded + dim + 16 * v);
  for (int block = begin / kKvBlock; block * kKvBlock < end; ++block) {
    const uint8_t* values = job->values + (size_t)job->blocks[block] * job->block_bytes + 2 * dim;
    const float* weights = s->scores + block * kKvBlock - chunk;
    const int count = least(kKvBlock, end - block * kKvBlock);
#pragma clang loop unroll(disable)
    for (int p = 0; p < count; ++p, values += 2 * job->head_dim, ++weights) {
      __m512 x[V];
      ASHLAR_UNROLL for (int v = 0; v < V; ++v) x[v] =
          widened<bf16>(_mm256_maskz_loadu_epi16(lanes[v], values + 32 * v));
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
        const __m512 w = _mm512_set1_ps(weights[r * kKvChunk]);
        ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[r][v] = _mm512_fmadd_ps(w, x[v], sums[r][v]);
      }
    }
  }
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int v = 0; v < V; ++v)
      _mm512_storeu_ps(s->sums + r * s->padded + dim + 16 * v, sums[r][v]);
}

template <bool bf16, int R>
static void attend_rows(const AttentionJob* job) {
  constexpr int B = R >= 16 ? 1 : R >= 8 ? 2 : 4;  // blocks scored together
  constexpr int V = R >= 16 ? 1 : R >= 8 ? 2 : 4;  // vectors of value elements summed together
  State s;
  s.padded = (job->head_dim + 15) / 16 * 16;
  s.q = job->scratch;
  s.sums = s.q + kAttentionRows * kMaxHeadDim;
  s.scores = s.sums + kAttentionRows * kMaxHeadDim;
  s.weights = s.scores + kAttentionRows * kKvChunk;
  AttentionJob padded = *job;
  int first = job->position[0], last = first;
  for (int r = 0; r < R; ++r) {
    if (r >= job->rows) padded.position[r] = job->position[0];
    s.peak[r] = -__builtin_inff();
    for (int d = 0; d < job->head_dim; ++d) s.q[d * R + r] = r < job->rows ? job->q[r][d] * job->scale : 0.0f;
    for (int d = 0; d < s.padded; ++d) s.sums[r * s.padded + d] = 0;
    for (int i = 0; i < 16; ++i) s.weights[16 * r + i] = 0;
    first = least(first, padded.position[r]);
    last = most(last, padded.position[r]);
  }
  first = job->window > first ? 0 : first - job->window + 1;
  for (int chunk = first / kKvChunk * kKvChunk; chunk <= last; chunk += kKvChunk) {
    const int begin = most(first, chunk) / kKvBlock, end = least(last / kKvBlock + 1, (chunk + kKvChunk) / kKvBlock);
    int block = begin;
    for (; block + B <= end; block += B) score<bf16, R, B>(&padded, &s, block, chunk);
    if constexpr (B > 1)
      for (; block < end; ++block) score<bf16, R, 1>(&padded, &s, block, chunk);
    for (int r = 0; r < R; ++r) weigh(&s, r, begin * kKvBlock - chunk, end * kKvBlock - chunk);
    const int stop = least(last + 1, chunk + kKvChunk);
    int dim = 0;
    for (; dim + 16 * V <= s.padded; dim += 16 * V)
      add_values<bf16, R, V>(&padded, &s, dim, begin * kKvBlock, stop, chunk);
    if constexpr (V > 1)
      for (; dim < s.padded; dim += 16) add_values<bf16, R, 1>(&padded, &s, dim, begin * kKvBlock, stop, chunk);
  }
  for (int r = 0; r < job->rows; ++r) {
    const __m512 inverse = _mm512_set1_ps(1.0f / sum_by_halves(_mm512_loadu_ps(s.weights + 16 * r)));
    for (int d = 0; d < job->head_dim; d += 16) {
      const __mmask16 lanes = job->head_dim - d >= 16 ? (__mmask16)0xffff : (__mmask16)0xff;
      _mm512_mask_storeu_ps(job->out[r] + d, lanes, _mm512_mul_ps(_mm512_loadu_ps(s.sums + r * s.padded + d), inverse));
    }
  }
}

template <bool bf16>
ASHLAR_INLINE void attend_any(const AttentionJob* job) {
  if (job->rows > 8)
    attend_rows<bf16, 16>(job);
  else if (job->rows > 4)
    attend_rows<bf16, 8>(job);
  else if (job->rows > 2)
    attend_rows<bf16, 4>(job);
  else if (job->rows > 1)
    attend_rows<bf16, 2>(job);
  else
    attend_rows<bf16, 1>(job);
}

// Sixteen floats to two bytes each, to nearest even; f16 clamped to its range.
ASHLAR_INLINE __m256i narrowed(__m512 v, int bf16) {
  if (bf16) {
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

void attend(const AttentionJob* job) { job->bf16 ? attend_any<true>(job) : attend_any<false>(job); }

void store_key(const float* key, int head_dim, int bf16, uint8_t* block, int slot) {
  for (int d = 0; d < head_dim; d += 16) {
    const int count = least(16, head_dim - d);
    uint16_t halves[16];
    const __mmask16 lanes = count == 16 ? (__mmask16)0xffff : (__mmask16)0xff;
    _mm256_storeu_si256((__m256i*)halves, narrowed(_mm512_maskz_loadu_ps(lanes, key + d), bf16));
    uint16_t* out = (uint16_t*)block + d * kKvBlock + slot;
    for (int i = 0; i < count; ++i) out[i * kKvBlock] = halves[i];
  }
}

void store_value(const float* value, int head_dim, int bf16, uint8_t* block, int slot) {
  uint16_t* out = (uint16_t*)block + slot * head_dim;
  for (int d = 0; d < head_dim; d += 16) {
    const __mmask16 lanes = head_dim - d >= 16 ? (__mmask16)0xffff : (__mmask16)0xff;
    _mm256_mask_storeu_epi16(out + d, lanes, narrowed(_mm512_maskz_loadu_ps(lanes, value + d), bf16));
  }
}

}  // namespace ashlar::kernels::avx512
