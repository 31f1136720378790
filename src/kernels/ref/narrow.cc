#pragma STDC FP_CONTRACT OFF
#include <bit>
#include <cmath>

#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

float weight(uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); }

}  // namespace

void narrow_in(const NarrowJob* job) {
  for (int r = 0; r < job->rows; ++r)
    for (int o = 0; o < job->outputs; ++o) {
      const uint16_t* weights = job->weights + static_cast<size_t>(o) * static_cast<size_t>(narrow_inputs(job->inputs));
      float partial[kLanes] = {};
      for (int i = 0; i < job->inputs; ++i)
        partial[i % kLanes] = std::fma(weight(weights[i]), job->x[r][i], partial[i % kLanes]);
      job->y[r][o] = sum_by_halves(partial) * job->scale;
    }
}

void narrow_out(const NarrowJob* job) {
  for (int r = 0; r < job->rows; ++r)
    for (int o = 0; o < job->outputs; ++o) {
      const uint16_t* tile = job->weights + static_cast<size_t>(o / kLanes) * static_cast<size_t>(job->inputs * kLanes);
      float sum = job->y[r][o];
      for (int i = 0; i < job->inputs; ++i)
        sum = std::fma(weight(tile[i / 2 * 2 * kLanes + o % kLanes * 2 + i % 2]), job->x[r][i], sum);
      job->y[r][o] = sum;
    }
}

}  // namespace ashlar::kernels::ref
