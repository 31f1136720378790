#pragma STDC FP_CONTRACT OFF
#include <bit>
#include <cmath>

#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

size_t size(int n) { return static_cast<size_t>(n); }
int least(int a, int b) { return a < b ? a : b; }
float scale_of(uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); }

float product(const Narrow8Job& job, int r, int o) {
  const int blocks = narrow8_blocks(job.inputs), begin = o / kLanes * kLanes, lane = o - begin;
  const int width = least(kLanes, job.outputs - begin);
  const uint8_t* weights = job.weights + size(begin) * size(narrow8_inputs(job.inputs));
  const uint16_t* scales = job.scales + size(begin) * size(blocks);
  const int8_t* x = job.x + size(r) * job.ldx;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) {
    const NarrowScale& of_x = job.x_scales[size(r) * job.ld_scales + size(b)];
    int32_t total = of_x.bias;
    for (int i = b * kNarrow8Block; i < job.inputs && i < (b + 1) * kNarrow8Block; ++i)
      total += weights[i / 4 * 4 * width + 4 * lane + i % 4] * x[i];
    sum = std::fma(static_cast<float>(total), scale_of(scales[b * width + lane]) * of_x.scale, sum);
  }
  return sum;
}

}  // namespace

void narrow8(const Narrow8Job* jobs, int count) {
  for (const Narrow8Job* job = jobs; job < jobs + count; ++job)
    for (int r = 0; r < job->rows; ++r)
      for (int o = 0; o < job->outputs; ++o)
        job->y[r][o] = std::fma(product(*job, r, o), job->scale, job->add ? job->y[r][o] : 0.0f);
}

void narrow8_codes(const float* x, int n, int8_t* codes, NarrowScale* scales) {
  for (int i = n; i < narrow8_codes_of(n); ++i) codes[i] = 0;
  for (int begin = 0; begin < n; begin += kNarrow8Block, ++scales) {
    const int end = least(n, begin + kNarrow8Block);
    float most = 0;
    for (int i = begin; i < end; ++i) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
    const bool some = most >= 0x1p-100f;  // else too small for 127 / most: all count as zero
    const float inverse = some ? 127 / most : 0;
    int32_t sum = 0;
    for (int i = begin; i < end; ++i) {
      const float scaled = x[i] * inverse;
      codes[i] = std::fabs(scaled) <= 127.5f ? static_cast<int8_t>(std::nearbyint(scaled)) : int8_t{0};
      sum += codes[i];
    }
    *scales = {.scale = some ? most / 127 : 0, .bias = -128 * sum};
  }
}

}  // namespace ashlar::kernels::ref
