// Products of quantized weights with many rows of activations, AMX-int8. A block
// of 32 columns, 16 weight rows and 16 activation rows is one tile product; its
// 256 integer sums are then scaled and added with AVX-512 in the order of ref.
#include <immintrin.h>

#include "kernels/x86/avx512_blocks.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::amx {
namespace {

using namespace avx512;

constexpr int kChunk = 32;    // blocks whose widened weights are kept at hand: they fit L1
constexpr int kFewRows = 8;   // up to these AVX-512 is as fast

// A widened block: signed codes in the groups of table.h, and what scales them.
struct alignas(64) Wide {
  int8_t codes[8][64];
  float scale[2][kLanes];
  float min[2][kLanes];
};

struct alignas(64) Sums {
  int32_t of[kPanelRows][kLanes];
};

struct alignas(64) Configuration {
  uint8_t palette, start;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Tiles 0 to 3: sums. 4 and 6: activations, 5 and 7: weights, of 32 columns or of the
// 16 that share a scale.
template <class S>
ASHLAR_INLINE void configure() {
  Configuration c = {};
  c.palette = 1;
  for (int t = 0; t < 4; ++t) {
    c.rows[t] = kPanelRows;
    c.row_bytes[t] = 64;
  }
  for (int t = 4; t < 8; t += 2) {
    c.rows[t] = kPanelRows;
    c.row_bytes[t] = kBlock / S::subs;
    c.rows[t + 1] = 8 / S::subs;
    c.row_bytes[t + 1] = 64;
  }
  asm volatile("" ::"m"(c) : "memory");
  _tile_loadconfig(&c);
}

template <class S>
ASHLAR_INLINE void widen(const Block& block, Wide* out) {
  const __m512i flip = _mm512_set1_epi8(S::offset ? (char)128 : (char)0);
  ASHLAR_UNROLL for (int g = 0; g < 8; ++g) _mm512_store_si512(out->codes[g], _mm512_xor_si512(block.codes[g], flip));
  ASHLAR_UNROLL for (int h = 0; h < S::subs; ++h) {
    _mm512_store_ps(out->scale[h], block.scale[h]);
    if constexpr (S::min) _mm512_store_ps(out->min[h], block.min[h]);
  }
}

// Blocks [first, first + count) of a tile; both are whole units, or a unit has one block.
template <class S>
ASHLAR_INLINE void widen_blocks(const uint8_t* tile, int first, int count, Wide* out) {
  constexpr int unit_bytes = S::header + S::blocks * S::block_bytes;
  tile += (size_t)(first / S::blocks) * unit_bytes;
  for (int u = 0; u < count / S::blocks; ++u) {
    Unit unit;
    S::read_unit(tile, unit);
    tile += S::header;
#pragma clang loop unroll(disable)
    for (int b = 0; b < S::blocks; ++b, tile += S::block_bytes, ++out) {
      ASHLAR_UNROLL for (int i = 0; i < S::block_bytes; i += 64) _mm_prefetch((const char*)tile + kAhead + i, _MM_HINT_T0);
      Block block;
      S::read_block(tile, unit, block);
      widen<S>(block, out);
    }
  }
}

// Sums of tile t: part t % subs of block t / subs.
template <class S, int t>
ASHLAR_INLINE void multiply_part(const Wide* w, const PanelBlock* x) {
  constexpr int part = t % S::subs, block = t / S::subs;
  _tile_zero(t);
  _tile_loadd(4 + t % 2 * 2, x[block].codes[0] + 16 * part, kBlock);
  _tile_loadd(5 + t % 2 * 2, w[block].codes[4 * part], 64);
  _tile_dpbssd(t, 4 + t % 2 * 2, 5 + t % 2 * 2);
}

// The integer sums of up to four parts: four or two blocks, or one.
template <class S, int parts>
ASHLAR_INLINE void multiply(const Wide* w, const PanelBlock* x, Sums* sums) {
  multiply_part<S, 0>(w, x);
  if constexpr (parts > 1) multiply_part<S, 1>(w, x);
  if constexpr (parts > 2) multiply_part<S, 2>(w, x);
  if constexpr (parts > 2) multiply_part<S, 3>(w, x);
  _tile_stored(0, sums[0].of, 64);
  if constexpr (parts > 1) _tile_stored(1, sums[1].of, 64);
  if constexpr (parts > 2) _tile_stored(2, sums[2].of, 64);
  if constexpr (parts > 2) _tile_stored(3, sums[3].of, 64);
}

ASHLAR_INLINE __m512 each(const float* p) { return _mm512_set1_ps(*p); }
ASHLAR_INLINE __m512 floats(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_load_si512(p)); }

// The scaled sums of one block added to the 16 running sums.
template <class S>
ASHLAR_INLINE void accumulate(const Wide* w, const PanelBlock* x, const Sums* sums, __m512 (&total)[kPanelRows]) {
  __m512 scale[S::subs], min[S::subs];
  ASHLAR_UNROLL for (int h = 0; h < S::subs; ++h) {
    scale[h] = _mm512_load_ps(w->scale[h]);
    if constexpr (S::min) min[h] = _mm512_load_ps(w->min[h]);
  }
  ASHLAR_UNROLL for (int r = 0; r < kPanelRows; ++r) {
    __m512 product = _mm512_mul_ps(floats(sums[0].of[r]), scale[0]);
    if constexpr (S::subs == 2) product = _mm512_fmadd_ps(floats(sums[1].of[r]), scale[1], product);
    total[r] = _mm512_fmadd_ps(product, each(&x->scale[r]), total[r]);
    if constexpr (S::min && S::subs == 2) {
      total[r] = _mm512_fnmadd_ps(min[0], each(&x->sum_half[0][r]), total[r]);
      total[r] = _mm512_fnmadd_ps(min[1], each(&x->sum_half[1][r]), total[r]);
    } else if constexpr (S::min) {
      total[r] = _mm512_fnmadd_ps(min[0], each(&x->sum[r]), total[r]);
    }
  }
}

// `count` blocks of one panel: the running sums come from y, unless these are the first, and go back there.
// The tile products of the next blocks run while the sums of these are scaled.
template <class S>
static void multiply_panel(const Wide* w, const PanelBlock* x, int count, bool begin, int rows, float* y, size_t ldy,
                           __mmask16 lanes) {
  constexpr int kStep = 2 / S::subs;  // blocks whose sums are in flight
  Sums sums[2][2];
  __m512 total[kPanelRows];
  ASHLAR_UNROLL for (int r = 0; r < kPanelRows; ++r) {
    total[r] = _mm512_setzero_ps();
    if (!begin && r < rows) total[r] = _mm512_maskz_loadu_ps(lanes, y + (size_t)r * ldy);
  }
  int turn = 0;
  if (count >= kStep) multiply<S, 2>(w, x, sums[0]);
  for (; count >= kStep; count -= kStep, turn ^= 1) {
    if (count >= 2 * kStep) multiply<S, 2>(w + kStep, x + kStep, sums[turn ^ 1]);
#pragma clang loop unroll(disable)
    for (int b = 0; b < kStep; ++b, ++w, ++x) accumulate<S>(w, x, sums[turn] + b * S::subs, total);
  }
  for (; count > 0; --count, ++w, ++x) {
    multiply<S, S::subs>(w, x, sums[0]);
    accumulate<S>(w, x, sums[0], total);
  }
  ASHLAR_UNROLL for (int r = 0; r < kPanelRows; ++r)
    if (r < rows) _mm512_mask_storeu_ps(y + (size_t)r * ldy, lanes, total[r]);
}

template <class S>
static void matmul(const MatmulJob* job) {
  Wide wide[kChunk];
  const int blocks = job->units * S::blocks;
  configure<S>();
  for (int first = 0; first < blocks; first += kChunk) {
    const int count = blocks - first < kChunk ? blocks - first : kChunk;
    const uint8_t* tile = job->tiles;
    for (int o = 0; o < job->outputs; o += kLanes, tile += job->tile_bytes) {
      widen_blocks<S>(tile, first, count, wide);
      const int left = job->outputs - o;
      const __mmask16 lanes = left >= kLanes ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
      const uint8_t* panel = (const uint8_t*)job->x;
      for (int row = 0; row < job->rows; row += kPanelRows, panel += job->panel_bytes)
        multiply_panel<S>(wide, (const PanelBlock*)panel + first, count, first == 0, job->rows - row,
                          job->y + (size_t)row * job->ldy + o, job->ldy, lanes);
    }
  }
  _tile_release();
}

}  // namespace

#define ASHLAR_AMX(name, shape) \
  void matmul_##name(const MatmulJob* job) { job->rows > kFewRows ? matmul<shape>(job) : avx512::matmul_##name(job); }

ASHLAR_AMX(q8_0, Q8_0)
ASHLAR_AMX(q4_0, Q4_0)
ASHLAR_AMX(q4_1, Q4_1)
ASHLAR_AMX(q5_0, Q5_0)
ASHLAR_AMX(q5_1, Q5_1)
ASHLAR_AMX(q2_k, Q2_K)
ASHLAR_AMX(q3_k, Q3_K)
ASHLAR_AMX(q4_k, Q4_K)
ASHLAR_AMX(q5_k, Q5_K)
ASHLAR_AMX(q6_k, Q6_K)
ASHLAR_AMX(iq4_nl, IQ4_NL)
ASHLAR_AMX(iq4_xs, IQ4_XS)

}  // namespace ashlar::kernels::amx
