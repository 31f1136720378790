// More than a few rows against narrow int8 matrices on the AMX unit: sums of a tile and a block, exactly as the vectors
// have them.
#include <immintrin.h>

#include "kernels/x86/amx_tiles.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels::amx {
namespace {

constexpr int kFew = 4;       // rows that the vectors take
constexpr int kTogether = 4;  // sums in flight, registers 0 to 3
constexpr int kStep = 64;     // inputs of a tile
constexpr int kX = 4, kXRest = 5, kWeights = 6, kWeightsRest = 7;
constexpr size_t kAhead = 2048;  // how far ahead weights are fetched

// What a job's registers hold: `width` outputs, and the inputs that whole tiles leave.
struct Shape {
  int rows, inputs, blocks, width, rest;
};

ASHLAR_INLINE Shape shape_of(const Narrow8Job* job, int width) {
  const int inputs = narrow8_inputs(job->inputs);
  return {job->rows, inputs, narrow8_blocks(inputs), width, inputs % kStep};
}

ASHLAR_INLINE void configure(const Shape& shape) {
  TileConfig config;
  const auto set = [&](int t, int lines, int bytes) {
    config.lines[t] = (uint8_t)lines;
    config.line_bytes[t] = (uint16_t)bytes;
  };
  for (int t = 0; t < kTogether; ++t) set(t, shape.rows, 4 * shape.width);
  set(kX, shape.rows, kStep);
  set(kWeights, kStep / 4, 4 * shape.width);
  if (shape.rest > 0) {
    set(kXRest, shape.rows, shape.rest);
    set(kWeightsRest, shape.rest / 4, 4 * shape.width);
  }
  asm volatile("" ::: "memory");  // compilers forget that the instruction reads all of it
  _tile_loadconfig(&config);
}

// The sums of a tile over a block, without their bias: [rows][width].
template <int sum>
ASHLAR_INLINE void sum_block(const Narrow8Job* job, const Shape& shape, int tile, int block, int32_t* sums) {
  const size_t line = 4 * (size_t)shape.width;
  const int begin = block * kNarrow8Block, end = avx512::least(shape.inputs, begin + kNarrow8Block);
  const uint8_t* weights = job->weights + (size_t)(tile * kLanes) * (size_t)shape.inputs + line / 4 * (size_t)begin;
  _tile_zero(sum);
  int i = begin;
  for (; i + kStep <= end; i += kStep, weights += line / 4 * kStep) {
    ASHLAR_UNROLL for (int l = 0; l < 16; ++l) _mm_prefetch((const char*)weights + kAhead + 64 * l, _MM_HINT_T0);
    _tile_loadd(kX, job->x + i, job->ldx);
    _tile_loadd(kWeights, weights, line);
    _tile_dpbsud(sum, kX, kWeights);
  }
  if (i < end) {
    ASHLAR_UNROLL for (int l = 0; l < 4; ++l) _mm_prefetch((const char*)weights + kAhead + 64 * l, _MM_HINT_T0);
    _tile_loadd(kXRest, job->x + i, job->ldx);
    _tile_loadd(kWeightsRest, weights, line);
    _tile_dpbsud(sum, kXRest, kWeightsRest);
  }
  _tile_stored(sum, sums, kLineBytes);
}

// Adds a block's sums to those of the blocks before it, and after the last one to y.
ASHLAR_INLINE void add_block(const Narrow8Job* job, const Shape& shape, int tile, int block, const int32_t* sums,
                             float* before) {
  const __mmask16 there = (__mmask16)((1u << shape.width) - 1);
  const uint16_t* at = job->scales + (size_t)(tile * kLanes) * (size_t)shape.blocks + (size_t)(block * shape.width);
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, at));
  const __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  const bool begins = block == 0, ends = block + 1 == shape.blocks;
  const __mmask16 add = job->add ? there : (__mmask16)0;
  const __m512 factor = _mm512_set1_ps(job->scale);
#pragma clang loop unroll_count(4)
  for (int r = 0; r < shape.rows; ++r) {
    const NarrowScale* of_x = job->x_scales + (size_t)r * job->ld_scales + block;
    const __m512i total = _mm512_add_epi32(_mm512_load_si512(sums + kLanes * r), _mm512_set1_epi32(of_x->bias));
    const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), _mm512_mul_ps(scales, _mm512_set1_ps(of_x->scale)),
                                       begins ? _mm512_setzero_ps() : _mm512_load_ps(before + kLanes * r));
    if (!ends) {
      _mm512_store_ps(before + kLanes * r, sum);
      continue;
    }
    float* y = job->y[r] + tile * kLanes;
    _mm512_mask_storeu_ps(y, there, _mm512_fmadd_ps(sum, factor, _mm512_maskz_loadu_ps(add, y)));
  }
}

// Tiles [first, end) of equal width: their blocks, kTogether at once.
static void multiply(const Narrow8Job* job, const Shape& shape, int first, int end) {
  alignas(64) int32_t sums[kTogether][kTileRows * kLanes];
  alignas(64) float before[kTileRows * kLanes];
  struct Place {
    int tile, block;
  } next = {first, 0};
  while (next.tile < end) {
    Place places[kTogether];
    int count = 0;
    for (; count < kTogether && next.tile < end; ++count) {
      places[count] = next;
      if (++next.block == shape.blocks) next = {next.tile + 1, 0};
    }
    sum_block<0>(job, shape, places[0].tile, places[0].block, sums[0]);
    if (count > 1) sum_block<1>(job, shape, places[1].tile, places[1].block, sums[1]);
    if (count > 2) sum_block<2>(job, shape, places[2].tile, places[2].block, sums[2]);
    if (count > 3) sum_block<3>(job, shape, places[3].tile, places[3].block, sums[3]);
    for (int i = 0; i < count; ++i) add_block(job, shape, places[i].tile, places[i].block, sums[i], before);
  }
}

// Jobs of more than a few rows: their whole tiles, or what those leave. Setting up registers takes as long as some
// tiles, so it is done for all jobs alike together.
static void multiply(const Narrow8Job* jobs, int count, bool whole) {
  Shape set = {};
  for (const Narrow8Job* job = jobs; job < jobs + count; ++job) {
    const int tiles = job->outputs / kLanes, width = whole ? kLanes : job->outputs % kLanes;
    if (whole ? tiles == 0 : width == 0) continue;
    const Shape shape = shape_of(job, width);
    if (shape.rows != set.rows || shape.width != set.width || shape.rest != set.rest) {
      configure(shape);
      set = shape;
    }
    whole ? multiply(job, shape, 0, tiles) : multiply(job, shape, tiles, tiles + 1);
  }
  if (set.rows > 0) _tile_release();
}

}  // namespace

void narrow8(const Narrow8Job* jobs, int count) {
  for (int done = 0, some = 0; done < count; done += some) {
    const bool few = jobs[done].rows <= kFew;
    for (some = 1; done + some < count && (jobs[done + some].rows <= kFew) == few;) ++some;
    if (few) {
      avx512::narrow8(jobs + done, some);
      continue;
    }
    multiply(jobs + done, some, true);
    multiply(jobs + done, some, false);
  }
}

}  // namespace ashlar::kernels::amx
