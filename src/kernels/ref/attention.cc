#pragma STDC FP_CONTRACT OFF
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/blocks.h"
#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Element `index` of keys or values; an int8 code is not yet scaled.
float load(const uint8_t* p, int index, int format) {
  if (format == kKvInt8) return static_cast<float>(static_cast<int8_t>(p[index]));
  uint16_t half;
  std::memcpy(&half, p + 2 * index, 2);
  return format == kKvBF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

// The scales of int8 stand behind the codes.
float scale_of(const uint8_t* p, int slot, int head_dim, int format) {
  if (format != kKvInt8) return 1;
  float scale;
  std::memcpy(&scale, p + head_dim * kKvBlock + 4 * slot, 4);
  return scale;
}

// cap * tanh(score / cap)
float capped(float score, float cap) { return cap - 2.0f * cap / (exponential(score * (2.0f / cap)) + 1.0f); }

// What a row found in some positions: the sums of weighted values, the greatest score, the sum of weights.
struct Found {
  float sums[kMaxHeadDim] = {};
  float peak = kNothing;
  float weight = 0;
};

// `later` after `found`, both over their own peaks.
void join(Found& found, const Found& later, int head_dim) {
  if (later.peak == kNothing) return;
  if (found.peak == kNothing) {
    found = later;
    return;
  }
  const float peak = std::max(found.peak, later.peak);
  const float mine = exponential(found.peak - peak), theirs = exponential(later.peak - peak);
  for (int d = 0; d < head_dim; ++d) found.sums[d] = std::fma(found.sums[d], mine, later.sums[d] * theirs);
  found.weight = std::fma(found.weight, mine, later.weight * theirs);
  found.peak = peak;
}

void finish(const Found& found, int head_dim, float* out) {
  const float inverse = 1.0f / found.weight;
  for (int d = 0; d < head_dim; ++d) out[d] = found.sums[d] * inverse;
}

// Softmax over positions [begin, end), within one split, in chunks of kKvChunk, the sums rescaled whenever a
// chunk brings a greater score (Milakov and Gimelshein, 2018). Chunks and splits stand at fixed positions, so a
// row's order of additions depends on its own position alone.
Found look(const AttentionJob& job, int r, const float* q, int begin, int end) {
  Found found;
  float weights[kLanes] = {};
  for (int chunk = begin / kKvChunk * kKvChunk; chunk < end; chunk += kKvChunk) {
    const int from = std::max(begin, chunk), to = std::min(end, chunk + kKvChunk);
    float scores[kKvChunk];
    float peak = found.peak;
    for (int p = from; p < to; ++p) {
      const uint8_t* keys = job.keys + static_cast<size_t>(job.blocks[r][p / kKvBlock]) * job.block_bytes;
      float score = 0;
      for (int d = 0; d < job.head_dim; ++d)
        score = std::fma(q[d], load(keys, d * kKvBlock + p % kKvBlock, job.format), score);
      scores[p - chunk] = score * scale_of(keys, p % kKvBlock, job.head_dim, job.format);
      if (job.cap > 0) scores[p - chunk] = capped(scores[p - chunk], job.cap);
      peak = std::max(peak, scores[p - chunk]);
    }
    const float factor = exponential(found.peak - peak);
    found.peak = peak;
    for (float& w : weights) w *= factor;
    for (int d = 0; d < job.head_dim; ++d) found.sums[d] *= factor;
    for (int p = from; p < to; ++p) {
      const uint8_t* values = job.values + static_cast<size_t>(job.blocks[r][p / kKvBlock]) * job.block_bytes;
      const float weight = exponential(scores[p - chunk] - peak);
      weights[p % kLanes] += weight;
      const float scaled = weight * scale_of(values, p % kKvBlock, job.head_dim, job.format);
      for (int d = 0; d < job.head_dim; ++d)
        found.sums[d] = std::fma(scaled, load(values, p % kKvBlock * job.head_dim + d, job.format), found.sums[d]);
    }
  }
  found.weight = sum_by_halves(weights);
  return found;
}

void attend_row(const AttentionJob& job, int r) {
  float q[kMaxHeadDim];
  for (int d = 0; d < job.head_dim; ++d) q[d] = job.q[r][d] * job.scale;
  const int begin = std::max(job.begin, job.position[r] - job.window + 1);
  const int end = std::min(job.end, job.position[r] + 1);
  Found found;
  for (int from = begin; from < end;) {
    const int to = std::min(end, from / kKvSplit * kKvSplit + kKvSplit);
    join(found, look(job, r, q, from, to), job.head_dim);
    from = to;
  }
  if (job.finish != 0) return finish(found, job.head_dim, job.out[r]);
  std::copy_n(found.sums, job.head_dim, job.out[r]);
  job.out[r][job.head_dim] = found.peak;
  job.out[r][job.head_dim + 1] = found.weight;
}

// Symmetric codes: the greatest magnitude is 127. Gives the scale.
float quantize(const float* x, int n, int8_t* codes) {
  float most = 0;
  for (int i = 0; i < n; ++i) most = std::abs(x[i]) > most ? std::abs(x[i]) : most;
  most = std::min(most, FLT_MAX);
  const float inverse = most < kLeastInt8 ? 0.0f : 127.0f / most;
  for (int i = 0; i < n; ++i) {
    float v = x[i] * inverse;
    v = v > -127.0f ? v : -127.0f;  // what is not a number, too
    codes[i] = static_cast<int8_t>(std::nearbyint(std::min(v, 127.0f)));
  }
  return most < kLeastInt8 ? 0.0f : most / 127.0f;
}

// x [head_dim] to elements `first`, `first` + step, ...
void store(const float* x, int head_dim, int format, uint8_t* p, int first, int step, int slot) {
  if (format == kKvInt8) {
    int8_t codes[kMaxHeadDim];
    const float scale = quantize(x, head_dim, codes);
    for (int d = 0; d < head_dim; ++d) p[first + d * step] = static_cast<uint8_t>(codes[d]);
    std::memcpy(p + head_dim * kKvBlock + 4 * slot, &scale, 4);
    return;
  }
  for (int d = 0; d < head_dim; ++d) {
    uint16_t half;
    if (format == kKvBF16)
      half = f32_to_bf16(x[d]);
    else
      half = f32_to_f16(x[d] > 65504.0f ? 65504.0f : x[d] < -65504.0f ? -65504.0f : x[d]);
    std::memcpy(p + 2 * (first + d * step), &half, 2);
  }
}

}  // namespace

void attend(const AttentionJob* job) {
  for (int r = 0; r < job->rows; ++r) attend_row(*job, r);
}

void join(const float* partials, int count, int head_dim, float* out) {
  Found found, later;
  for (int i = 0; i < count; ++i, partials += head_dim + kPartialExtra) {
    std::copy_n(partials, head_dim, later.sums);
    later.peak = partials[head_dim];
    later.weight = partials[head_dim + 1];
    join(found, later, head_dim);
  }
  finish(found, head_dim, out);
}

void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot) {
  store(key, head_dim, format, keys, slot, kKvBlock, slot);
}

void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot) {
  store(value, head_dim, format, values, slot * head_dim, 1, slot);
}

}  // namespace ashlar::kernels::ref
