#pragma STDC FP_CONTRACT OFF
#include <bit>
#include <cmath>

#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

size_t size(int n) { return static_cast<size_t>(n); }
float scale_at(const uint8_t* bf16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bf16[0] | bf16[1] << 8) << 16);
}

float sum_in(const Narrow8Job& job, int r, int o) {
  const int8_t* weights = job.weights + size(o) * size(narrow8_inputs(job.inputs));
  float sums[kLanes] = {};
  for (int b = 0; b < narrow8_blocks(job.inputs); ++b) {
    int32_t lanes[kLanes] = {};
    for (int i = b * kNarrow8Block; i < job.inputs && i < (b + 1) * kNarrow8Block; ++i)
      lanes[i / 2 % kLanes] += weights[i] * job.x[r][i];
    for (int l = 0; l < kLanes; ++l)
      sums[l] = std::fma(static_cast<float>(lanes[l]), job.scales[o * narrow8_blocks(job.inputs) + b], sums[l]);
  }
  return sum_by_halves(sums);
}

float sum_out(const Narrow8Job& job, int r, int o) {
  const int8_t* tile = job.weights + size(o / kLanes) * size(narrow8_tile_bytes(job.inputs));
  const int8_t* weights = tile + 2 * kLanes + o % kLanes * 2;
  int32_t sum = 0;
  for (int i = 0; i < job.inputs; ++i) sum += weights[i / 2 * 2 * kLanes + i % 2] * job.x[r][i];
  const float scale = scale_at(reinterpret_cast<const uint8_t*>(tile) + o % kLanes * 2);
  return std::fma(static_cast<float>(sum), scale * job.x_scale[r], job.y[r][o]);
}

}  // namespace

void narrow8_in(const Narrow8Job* jobs, int count) {
  for (const Narrow8Job* job = jobs; job < jobs + count; ++job)
    for (int r = 0; r < job->rows; ++r)
      for (int o = 0; o < job->outputs; ++o) job->y[r][o] = sum_in(*job, r, o) * job->x_scale[r];
}

void narrow8_out(const Narrow8Job* jobs, int count) {
  for (const Narrow8Job* job = jobs; job < jobs + count; ++job)
    for (int r = 0; r < job->rows; ++r)
      for (int o = 0; o < job->outputs; ++o) job->y[r][o] = sum_out(*job, r, o);
}

float narrow_codes(const float* x, int n, int top, int16_t* codes) {
  float most = 0;
  for (int i = 0; i < n; ++i) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
  const bool some = most >= 0x1p-100f;  // else too small for top / most: all count as zero
  const float inverse = some ? static_cast<float>(top) / most : 0;
  for (int i = 0; i < narrow8_inputs(n); ++i) {
    const float scaled = i < n ? x[i] * inverse : 0;
    const bool finite = std::fabs(scaled) <= static_cast<float>(top) + 0.5f;
    codes[i] = finite ? static_cast<int16_t>(std::nearbyint(scaled)) : int16_t{0};
  }
  return some ? most / static_cast<float>(top) : 0;
}

}  // namespace ashlar::kernels::ref
