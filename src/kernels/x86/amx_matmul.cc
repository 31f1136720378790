// Products on the AMX unit. Quantized weights and activations meet as int8, exactly,
// a group of columns at a time; then their sums are scaled and added in f32. Weights of 16 bits
// meet activations as bf16, 512 columns at a time. Groups of columns are added in
// their order, so a row's result does not depend on the rows beside it.
#include <immintrin.h>

#include "kernels/x86/amx_blocks.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::amx {
namespace {

using avx512::Int32;

constexpr int kSums = 0, kWeights = 4, kRows = 6;  // the first tile register of each kind
constexpr int kTileSums = kTileRows * kLanes;
constexpr int kStreamRows = 4 * kTileRows;  // up to here weights stream through once for all rows
constexpr int kChunkTiles = 16;             // tiles of weights that stay in the first level, times two

ASHLAR_INLINE void configure(int rows) { configure_tiles(rows, 3u << kWeights); }

template <int t>
ASHLAR_INLINE void load_tile(const void* p) {
  _tile_loadd(t, p, 64);
}
// For what is read once: it passes by the first level, where the weights stay.
template <int t>
ASHLAR_INLINE void load_passing(const void* p) {
  _tile_stream_loadd(t, p, 64);
}
template <int t>
ASHLAR_INLINE void store_tile(void* p) {
  _tile_stored(t, p, 64);
}
template <int t>
ASHLAR_INLINE void zero_tile() {
  _tile_zero(t);
}
template <class Weights, int sum, int rows, int weights>
ASHLAR_INLINE void multiply() {
  if constexpr (Weights::kScaled)
    _tile_dpbssd(sum, rows, weights);
  else
    _tile_dpbf16ps(sum, rows, weights);
}

// A tile of BF16 weights straight from memory, and what comes two tiles later on its way.
template <int sum>
ASHLAR_INLINE void multiply_fetched(const uint8_t* weights) {
  ASHLAR_UNROLL for (int i = 0; i < 16; ++i) _mm_prefetch((const char*)weights + 2 * kTileBytes + 64 * i, _MM_HINT_T0);
  load_tile<kWeights + sum % 2>(weights);
  _tile_dpbf16ps(sum, kRows, kWeights + sum % 2);
}

template <class Weights>
ASHLAR_INLINE int groups_of(const MatmulJob* job) {
  return (Weights::columns(job) + Weights::kColumns - 1) / Weights::kColumns;
}

// Group `group` of the m-th 16 rows: tiles, and the rows' scales behind them.
template <class Weights>
ASHLAR_INLINE const uint8_t* rows_of(const MatmulJob* job, int m, int group) {
  return (const uint8_t*)job->x + (size_t)m * job->panel_bytes + (size_t)group * Weights::group_bytes(job);
}

// Beyond the last tile: the last one again; its sums are dropped.
ASHLAR_INLINE const uint8_t* tile_or_last(const MatmulJob* job, int tile) {
  return job->tiles + (size_t)least(tile, (job->outputs - 1) / kLanes) * job->tile_bytes;
}

// Where a tile of sums goes: y, or a place where it rests until the next columns.
struct Place {
  float* at;
  size_t stride;
  int rows;
  __mmask16 lanes;
};

ASHLAR_INLINE Place place_in_y(const MatmulJob* job, int m, int tile) {
  const int outputs = job->outputs - tile * kLanes;
  return {job->y + (size_t)(m * kTileRows) * job->ldy + tile * kLanes, job->ldy,
          least(kTileRows, job->rows - m * kTileRows),
          (__mmask16)(outputs >= kLanes ? 0xffff
                      : outputs > 0     ? (1u << outputs) - 1
                                        : 0)};
}

ASHLAR_INLINE Place place_at(float* at, int rows) { return {at, kLanes, rows, 0xffff}; }

// A group's sums of one tile, with the step of each weight row and the scale of each activation row.
struct Sums {
  const void* sums;
  const float *steps, *scales;
  const float* before;  // of earlier groups; null: none
  Place to;
};

template <class Weights, bool begun, bool whole>
ASHLAR_INLINE void add_rows(const Sums& s) {
  const __m512 step = Weights::kScaled ? _mm512_load_ps(s.steps) : _mm512_setzero_ps();
#pragma clang loop unroll_count(4)
  for (int r = 0; r < (whole ? kTileRows : s.to.rows); ++r) {
    __m512 sum = begun ? _mm512_load_ps(s.before + kLanes * r) : _mm512_setzero_ps();
    if constexpr (Weights::kScaled) {
      const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512((const int32_t*)s.sums + kLanes * r));
      sum = _mm512_fmadd_ps(product, _mm512_mul_ps(step, _mm512_set1_ps(s.scales[r])), sum);
    } else {
      sum = _mm512_add_ps(_mm512_load_ps((const float*)s.sums + kLanes * r), sum);
    }
    float* to = s.to.at + (size_t)r * s.to.stride;
    if constexpr (whole)
      _mm512_storeu_ps(to, sum);
    else
      _mm512_mask_storeu_ps(to, s.to.lanes, sum);
  }
}

// to = before + the group's scaled sums
template <class Weights>
ASHLAR_INLINE void add(const Sums& s) {
  const bool whole = s.to.rows == kTileRows && s.to.lanes == 0xffff;
  if (s.before != nullptr)
    whole ? add_rows<Weights, true, true>(s) : add_rows<Weights, true, false>(s);
  else
    whole ? add_rows<Weights, false, true>(s) : add_rows<Weights, false, false>(s);
}

template <class Weights>
ASHLAR_INLINE const float* scales_behind(const MatmulJob* job, const uint8_t* rows) {
  return (const float*)(rows + Weights::group_bytes(job)) - 2 * kTileRows;
}

// Sums of a group's products for R rows of x, block by block; weights stay in registers.
template <class Weights, int R, bool by_codebooks>
struct FewSums {
  __m512i even[R], odd[R];

  ASHLAR_MEMBER FewSums() { ASHLAR_UNROLL for (int r = 0; r < R; ++r) even[r] = odd[r] = _mm512_setzero_si512(); }
  ASHLAR_MEMBER void add(const Weights& weights, const typename Weights::Group& group, int block, const uint8_t* x) {
    weights.template block<true>(group, block, [&](int line, __m512i w) __attribute__((always_inline)) {
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
        __m512i& sum = line % 2 == 0 ? even[r] : odd[r];
        sum = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(*(const Int32*)(x + 4 * line + kLineBytes * r)));
      }
    });
  }
  ASHLAR_MEMBER __m512i of(int r) { return _mm512_add_epi32(even[r], odd[r]); }  // [weight row]
};

// The same by codebooks: a lane of 128 bits has one weight row.
template <class Weights, int R>
struct FewSums<Weights, R, true> {
  __m512i sums[R][4];

  ASHLAR_MEMBER FewSums() {
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int q = 0; q < 4; ++q) sums[r][q] =
        _mm512_setzero_si512();
  }
  ASHLAR_MEMBER void add(const Weights& weights, const typename Weights::Group& group, int block, const uint8_t* x) {
    __m512i row[R][2];
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) ASHLAR_UNROLL for (int h = 0; h < 2; ++h) row[r][h] =
        _mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)(x + kLineBytes * r + 16 * h)));
    weights.template quarters<true>(group, block, [&](int q, int h, __m512i w) __attribute__((always_inline)) {
      ASHLAR_UNROLL for (int r = 0; r < R; ++r) sums[r][q] = _mm512_dpbusd_epi32(sums[r][q], w, row[r][h]);
    });
  }
  ASHLAR_MEMBER __m512i of(int r) {
    __m512i(&s)[4] = sums[r];
    transpose_lanes(s);
    return _mm512_add_epi32(_mm512_add_epi32(s[0], s[1]), _mm512_add_epi32(s[2], s[3]));
  }
};

// Where int8 products of R rows go past the matrix unit: widened weights meet each row by vpdpbusd. The same integers,
// so the same bits. Weights come with 128 added, which the rows' sums take off again.
template <class Weights, int R>
static void stream_few(const MatmulJob* job, int tile) {
  Weights weights(job, tile_or_last(job, tile), 0);
  __m512 total[R];
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) total[r] = _mm512_setzero_ps();
  for (int g = 0; g < groups_of<Weights>(job); ++g) {
    const uint8_t* x = rows_of<Weights>(job, 0, g);
    const float* scales = scales_behind<Weights>(job, x);
    const int32_t* row_sums = (const int32_t*)(scales + kTileRows);
    alignas(64) float steps[kLanes];
    typename Weights::Group group;
    const int blocks = weights.begin(group, steps);
    FewSums<Weights, R, Weights::kByCodebooks && R <= 4> sums;
#pragma clang loop unroll(disable)
    for (int b = 0; b < blocks; ++b) sums.add(weights, group, b, x + kLineBytes * R * (b / 2) + 32 * (b % 2));
    weights.end();
    const __m512 step = _mm512_load_ps(steps);
    ASHLAR_UNROLL for (int r = 0; r < R; ++r) {
      const __m512i product = _mm512_sub_epi32(sums.of(r), _mm512_set1_epi32(128 * row_sums[r]));
      total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), _mm512_mul_ps(step, _mm512_set1_ps(scales[r])), total[r]);
    }
  }
  const Place y = place_in_y(job, 0, tile);
  ASHLAR_UNROLL for (int r = 0; r < R; ++r) if (r < y.rows)
      _mm512_mask_storeu_ps(y.at + (size_t)r * y.stride, y.lanes, total[r]);
}

// At most 16 rows and BF16 weights of whole tiles, which need no widening: four tiles of weight rows side by side, as
// one stream alone gets three quarters of what memory can give.
static void stream_whole_bf16(const MatmulJob* job, int tile) {
  alignas(64) float sums[4][kTileSums], total[4][kTileSums];
  const uint8_t *a = tile_or_last(job, tile), *b = tile_or_last(job, tile + 1);
  const uint8_t *c = tile_or_last(job, tile + 2), *d = tile_or_last(job, tile + 3);
  const int groups = groups_of<Bf16>(job), lines = least(kTileRows, job->rows);
  for (int g = 0, left = job->units / 32; g < groups; ++g, left -= kBf16GroupTiles) {
    const uint8_t* x = rows_of<Bf16>(job, 0, g);
    zero_tile<kSums>();
    zero_tile<kSums + 1>();
    zero_tile<kSums + 2>();
    zero_tile<kSums + 3>();
#pragma clang loop unroll(disable)
    for (int i = 0; i < least(kBf16GroupTiles, left); ++i) {
      load_tile<kRows>(x + kTileBytes * i);
      multiply_fetched<kSums>(a);
      multiply_fetched<kSums + 1>(b);
      multiply_fetched<kSums + 2>(c);
      multiply_fetched<kSums + 3>(d);
      a += kTileBytes;
      b += kTileBytes;
      c += kTileBytes;
      d += kTileBytes;
    }
    store_tile<kSums>(sums[0]);
    store_tile<kSums + 1>(sums[1]);
    store_tile<kSums + 2>(sums[2]);
    store_tile<kSums + 3>(sums[3]);
    for (int n = 0; n < 4; ++n) {
      const Place to = g + 1 < groups ? place_at(total[n], lines) : place_in_y(job, 0, tile + n);
      add<Bf16>({sums[n], nullptr, nullptr, g > 0 ? total[n] : nullptr, to});
    }
  }
}

struct Nothing {
  ASHLAR_MEMBER void operator()(int) const {}
};

// Up to 16 M rows: one tile of weight rows streams through. Tiles of the next group are widened between the products
// of this one: products that follow each other wait for each other.
template <class Weights, int M>
static void stream(const MatmulJob* job, int tile) {
  alignas(64) uint8_t widened[2][Weights::kMostTiles][kTileBytes];
  alignas(64) float steps[2][kLanes], sums[M][kTileSums], total[M][kTileSums];
  const int groups = groups_of<Weights>(job), lines = least(kTileRows, job->rows);
  Weights weights(job, tile_or_last(job, tile), 0);
  int count = weights.next(widened[0][0], steps[0], Nothing());
  for (int g = 0; g < groups; ++g) {
    const uint8_t* x[4];
    ASHLAR_UNROLL for (int m = 0; m < 4; ++m) x[m] = rows_of<Weights>(job, least(m, (job->rows - 1) / kTileRows), g);
    zero_tile<kSums>();
    if constexpr (M > 1) zero_tile<kSums + 1>();
    if constexpr (M > 2) zero_tile<kSums + 2>();
    if constexpr (M > 2) zero_tile<kSums + 3>();
    const uint8_t(*now)[kTileBytes] = widened[g % 2];
    const auto multiply_tile = [&](int i) __attribute__((always_inline)) {
      load_tile<kWeights>(now[i]);
      load_tile<kRows>(x[0] + kTileBytes * i);
      multiply<Weights, kSums, kRows, kWeights>();
      if constexpr (M > 1) {
        load_tile<kRows + 1>(x[1] + kTileBytes * i);
        multiply<Weights, kSums + 1, kRows + 1, kWeights>();
      }
      if constexpr (M > 2) {
        load_tile<kRows>(x[2] + kTileBytes * i);
        multiply<Weights, kSums + 2, kRows, kWeights>();
        load_tile<kRows + 1>(x[3] + kTileBytes * i);
        multiply<Weights, kSums + 3, kRows + 1, kWeights>();
      }
    };
    int done = 0, next = 0;  // tiles of this group multiplied, of the next one widened
    if (g + 1 < groups) {
      next = weights.next(widened[(g + 1) % 2][0], steps[(g + 1) % 2], multiply_tile);
      done = next;
    }
    for (; done < count; ++done) multiply_tile(done);
    count = next;
    store_tile<kSums>(sums[0]);
    if constexpr (M > 1) store_tile<kSums + 1>(sums[1]);
    if constexpr (M > 2) store_tile<kSums + 2>(sums[2]);
    if constexpr (M > 2) store_tile<kSums + 3>(sums[3]);
    for (int m = 0; m < M; ++m) {
      const Place to = g + 1 < groups ? place_at(total[m], lines) : place_in_y(job, m, tile);
      add<Weights>({sums[m], steps[g % 2], scales_behind<Weights>(job, x[m]), g > 0 ? total[m] : nullptr, to});
    }
  }
}

// Two tiles of weight rows meet all rows, over `count` groups of columns from `first` on.
template <class Weights>
static void multiply_chunk(const MatmulJob* job, int tile, int first, int count) {
  constexpr int kMostGroups = kChunkTiles / kInt8GroupTiles;
  constexpr int group = Weights::kMostTiles;
  alignas(64) uint8_t widened[2][kChunkTiles][kTileBytes];
  alignas(64) float steps[2][kMostGroups][kLanes], sums[4][kTileSums];
  int tiles[kMostGroups];
  for (int n = 0; n < 2; ++n) {
    Weights weights(job, tile_or_last(job, tile + n), first);
    for (int g = 0; g < count; ++g) tiles[g] = weights.next(widened[n][g * group], steps[n][g], Nothing());
  }
  const int row_tiles = (job->rows + kTileRows - 1) / kTileRows, groups = groups_of<Weights>(job);
  float* rest = job->partial + (size_t)(tile / 2) * (size_t)(row_tiles + row_tiles % 2) * 2 * kTileSums;
  for (int m = 0; m < row_tiles; m += 2, rest += 4 * kTileSums)
    for (int g = 0; g < count; ++g) {
      const uint8_t* above = rows_of<Weights>(job, m, first + g);
      const uint8_t* below = rows_of<Weights>(job, least(m + 1, row_tiles - 1), first + g);
      const uint8_t *left = widened[0][g * group], *right = widened[1][g * group];
      zero_tile<kSums>();
      zero_tile<kSums + 1>();
      zero_tile<kSums + 2>();
      zero_tile<kSums + 3>();
#pragma clang loop unroll(disable)
      for (int i = 0; i < tiles[g]; ++i) {
        load_tile<kWeights>(left + kTileBytes * i);
        load_passing<kRows>(above + kTileBytes * i);
        multiply<Weights, kSums, kRows, kWeights>();
        load_tile<kWeights + 1>(right + kTileBytes * i);
        multiply<Weights, kSums + 1, kRows, kWeights + 1>();
        load_passing<kRows + 1>(below + kTileBytes * i);
        multiply<Weights, kSums + 2, kRows + 1, kWeights>();
        multiply<Weights, kSums + 3, kRows + 1, kWeights + 1>();
      }
      store_tile<kSums>(sums[0]);
      store_tile<kSums + 1>(sums[1]);
      store_tile<kSums + 2>(sums[2]);
      store_tile<kSums + 3>(sums[3]);
      const bool begun = first + g > 0, last = first + g + 1 == groups;
      for (int s = 0; s < 4; ++s) {
        float* at = rest + s * kTileSums;
        const Place to = last ? place_in_y(job, m + s / 2, tile + s % 2) : place_at(at, kTileRows);
        add<Weights>(
            {sums[s], steps[s % 2][g], scales_behind<Weights>(job, s < 2 ? above : below), begun ? at : nullptr, to});
      }
    }
}

template <class Weights>
ASHLAR_INLINE void matmul(const MatmulJob* job) {
  const int tiles = (job->outputs + kLanes - 1) / kLanes;
  if constexpr (Weights::kScaled)
    if (job->rows <= kFewRows) {
      for (int t = 0; t < tiles; ++t)
        job->rows == 1   ? stream_few<Weights, 1>(job, t)
        : job->rows == 2 ? stream_few<Weights, 2>(job, t)
        : job->rows <= 4 ? stream_few<Weights, 4>(job, t)
                         : stream_few<Weights, 8>(job, t);
      return;
    }
  configure(least(kTileRows, job->rows));
  if (Weights::kWholeTiles && job->rows <= kTileRows && job->units % 32 == 0) {
    for (int t = 0; t < tiles; t += 4) stream_whole_bf16(job, t);
  } else if (job->rows <= kTileRows) {
    for (int t = 0; t < tiles; ++t) stream<Weights, 1>(job, t);
  } else if (job->rows <= 2 * kTileRows) {
    for (int t = 0; t < tiles; ++t) stream<Weights, 2>(job, t);
  } else if (job->rows <= kStreamRows) {
    for (int t = 0; t < tiles; ++t) stream<Weights, 4>(job, t);
  } else {
    // A chunk of all rows stays in the second level while the tiles of weights pass.
    const int groups = groups_of<Weights>(job), step = kChunkTiles / Weights::kMostTiles;
    for (int first = 0; first < groups; first += step)
      for (int t = 0; t < tiles; t += 2) multiply_chunk<Weights>(job, t, first, least(step, groups - first));
  }
  _tile_release();
}

ASHLAR_INLINE __m512 part(const float* x, int left) {
  return _mm512_maskz_loadu_ps(left >= 16 ? (__mmask16)0xffff
                               : left > 0 ? (__mmask16)((1u << left) - 1)
                                          : (__mmask16)0,
                               x);
}

// One row's group of columns to int8 in its tiles, and their sum; returns their scale. Of a group that is not finite
// the codes are 0 and the scale is not finite either, so that the row's outputs show it.
ASHLAR_INLINE float quantize_group(const float* x, int left, int stride, uint8_t* line, int32_t* sum) {
  constexpr int vectors = 4 * kInt8GroupTiles;
  __m512i most = _mm512_setzero_si512();  // as bits: what is not a number is greater than infinity
  for (int i = 0; i < vectors; ++i) {
    const __m512 size = _mm512_abs_ps(part(x + 16 * i, left - 16 * i));
    most = _mm512_max_epu32(most, _mm512_castps_si512(size));
  }
  const float greatest = __builtin_bit_cast(float, _mm512_reduce_max_epu32(most));
  const bool none = greatest < kLeastInt8;
  const __m512 inverse = _mm512_set1_ps(none ? 0.0f : 127.0f / greatest), bound = _mm512_set1_ps(127.5f);
  __m512i sums = _mm512_setzero_si512();
  const __m128i order = _mm_set_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1);  // pairs change places
  for (int i = 0; i < vectors; ++i) {
    const __m512 v = _mm512_mul_ps(part(x + 16 * i, left - 16 * i), inverse);
    const __mmask16 sane = _mm512_cmp_ps_mask(_mm512_abs_ps(v), bound, _CMP_LE_OQ);
    const __m512i integers = _mm512_maskz_cvtps_epi32(sane, v);
    sums = _mm512_add_epi32(sums, integers);
    const __m128i codes = _mm512_cvtsepi32_epi8(integers);
    _mm_store_si128((__m128i*)(line + i / 4 * stride + i % 4 * 16), _mm_shuffle_epi8(codes, order));
  }
  *sum = _mm512_reduce_add_epi32(sums);
  return none ? 0.0f : greatest / 127.0f;
}

}  // namespace

void matmul_f16(const MatmulJob* job) { matmul<F16>(job); }
void matmul_bf16(const MatmulJob* job) { matmul<Bf16>(job); }
void matmul_q8_0(const MatmulJob* job) { matmul<Q8_0>(job); }
void matmul_q4_0(const MatmulJob* job) { matmul<Q4_0>(job); }
void matmul_q4_1(const MatmulJob* job) { matmul<Q4_1>(job); }
void matmul_q5_0(const MatmulJob* job) { matmul<Q5_0>(job); }
void matmul_q5_1(const MatmulJob* job) { matmul<Q5_1>(job); }
void matmul_q2_k(const MatmulJob* job) { matmul<Q2_K>(job); }
void matmul_q3_k(const MatmulJob* job) { matmul<Q3_K>(job); }
void matmul_q4_k(const MatmulJob* job) { matmul<Q4_K>(job); }
void matmul_q5_k(const MatmulJob* job) { matmul<Q5_K>(job); }
void matmul_q6_k(const MatmulJob* job) { matmul<Q6_K>(job); }
void matmul_iq4_nl(const MatmulJob* job) { matmul<IQ4_NL>(job); }
void matmul_iq4_xs(const MatmulJob* job) { matmul<IQ4_XS>(job); }
void matmul_u4z(const MatmulJob* job) { matmul<U4Z>(job); }
void matmul_u8z(const MatmulJob* job) { matmul<U8Z>(job); }
void matmul_i8(const MatmulJob* job) { matmul<I8>(job); }
void matmul_nf4(const MatmulJob* job) { matmul<NF4>(job); }
void matmul_mxfp4(const MatmulJob* job) { matmul<MXFP4>(job); }

void int8_panel(const float* x, size_t ldx, int rows, int columns, int lines, uint8_t* panel) {
  const int stride = kLineBytes * lines;
  for (int first = 0; first < columns; first += kInt8GroupColumns) {
    float* scales = (float*)(panel + (size_t)kInt8GroupTiles * stride);
    int32_t* sums = (int32_t*)(scales + kTileRows);
    for (int r = 0; r < lines; ++r) {
      uint8_t* line = panel + kLineBytes * r;
      if (r < rows) {
        scales[r] = quantize_group(x + (size_t)r * ldx + first, columns - first, stride, line, sums + r);
        continue;
      }
      scales[r] = 0;
      sums[r] = 0;
      for (int t = 0; t < kInt8GroupTiles; ++t) _mm512_store_si512(line + stride * t, _mm512_setzero_si512());
    }
    panel = (uint8_t*)(sums + kTileRows);
  }
}

void bf16_panel(const float* x, size_t ldx, int rows, int columns, uint8_t* panel) {
  for (int first = 0; first < columns; first += 32, panel += kTileBytes)
    for (int r = 0; r < kTileRows; ++r) {
      __m512i line = _mm512_setzero_si512();
      if (r < rows) {
        const float* p = x + (size_t)r * ldx + first;
        line = (__m512i)_mm512_cvtne2ps_pbh(part(p + 16, columns - first - 16), part(p, columns - first));
      }
      _mm512_store_si512(panel + 64 * r, line);
    }
}

// Sixteen products of whole tiles a round, four sums by turns.
template <class Weights>
static double tile_operations(int64_t rounds, double each) {
  configure(kTileRows);
  zero_tile<kSums>();
  zero_tile<kSums + 1>();
  zero_tile<kSums + 2>();
  zero_tile<kSums + 3>();
  zero_tile<kWeights>();
  zero_tile<kRows>();
  for (int64_t n = 0; n < rounds; ++n) {
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; ++i) {
      multiply<Weights, kSums, kRows, kWeights>();
      multiply<Weights, kSums + 1, kRows, kWeights>();
      multiply<Weights, kSums + 2, kRows, kWeights>();
      multiply<Weights, kSums + 3, kRows, kWeights>();
    }
  }
  _tile_release();
  return 16.0 * each * (double)rounds;
}

double int8_operations(int64_t rounds) { return tile_operations<Q8_0>(rounds, 2.0 * 16 * 16 * 64); }
double bf16_operations(int64_t rounds) { return tile_operations<Bf16>(rounds, 2.0 * 16 * 16 * 32); }

}  // namespace ashlar::kernels::amx
