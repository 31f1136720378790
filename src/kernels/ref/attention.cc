#pragma STDC FP_CONTRACT OFF
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/blocks.h"
#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

float load(const uint8_t* p, int index, int bf16) {
  uint16_t half;
  std::memcpy(&half, p + 2 * index, 2);
  return bf16 != 0 ? bf16_to_f32(half) : f16_to_f32(half);
}

void store(float value, int bf16, uint8_t* p, int index) {
  uint16_t half;
  if (bf16 != 0)
    half = f32_to_bf16(value);
  else
    half = f32_to_f16(value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value);
  std::memcpy(p + 2 * index, &half, 2);
}

// Softmax over the positions in chunks of kKvChunk, the sums rescaled whenever a chunk brings a greater
// score (Milakov and Gimelshein, 2018). Chunks stand at fixed positions, so a row's order of
// additions depends on its own position alone.
void attend_row(const AttentionJob& job, int r) {
  const int last = job.position[r], first = std::max(0, last - job.window + 1);
  float q[kMaxHeadDim], sum[kMaxHeadDim] = {}, weights[kLanes] = {};
  for (int d = 0; d < job.head_dim; ++d) q[d] = job.q[r][d] * job.scale;
  float most = kNothing;
  for (int chunk = first / kKvChunk * kKvChunk; chunk <= last; chunk += kKvChunk) {
    const int begin = std::max(first, chunk), end = std::min(last + 1, chunk + kKvChunk);
    float scores[kKvChunk];
    float peak = most;
    for (int p = begin; p < end; ++p) {
      const uint8_t* keys = job.keys + static_cast<size_t>(job.blocks[p / kKvBlock]) * job.block_bytes;
      float score = 0;
      for (int d = 0; d < job.head_dim; ++d)
        score = std::fma(q[d], load(keys, d * kKvBlock + p % kKvBlock, job.bf16), score);
      scores[p - chunk] = score;
      peak = std::max(peak, score);
    }
    const float factor = exponential(most - peak);
    most = peak;
    for (float& w : weights) w *= factor;
    for (int d = 0; d < job.head_dim; ++d) sum[d] *= factor;
    for (int p = begin; p < end; ++p) {
      const uint8_t* values = job.values + static_cast<size_t>(job.blocks[p / kKvBlock]) * job.block_bytes;
      const float weight = exponential(scores[p - chunk] - most);
      weights[p % kLanes] += weight;
      for (int d = 0; d < job.head_dim; ++d)
        sum[d] = std::fma(weight, load(values, p % kKvBlock * job.head_dim + d, job.bf16), sum[d]);
    }
  }
  const float inverse = 1.0f / sum_by_halves(weights);
  for (int d = 0; d < job.head_dim; ++d) job.out[r][d] = sum[d] * inverse;
}

}  // namespace

void attend(const AttentionJob* job) {
  for (int r = 0; r < job->rows; ++r) attend_row(*job, r);
}

void store_key(const float* key, int head_dim, int bf16, uint8_t* block, int slot) {
  for (int d = 0; d < head_dim; ++d) store(key[d], bf16, block, d * kKvBlock + slot);
}

void store_value(const float* value, int head_dim, int bf16, uint8_t* block, int slot) {
  for (int d = 0; d < head_dim; ++d) store(value[d], bf16, block, slot * head_dim + d);
}

}  // namespace ashlar::kernels::ref
