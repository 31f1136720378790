#include "kernels/narrow.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/result.h"
#include "kernels/blocks.h"

namespace ashlar::kernels {
namespace {

std::size_t size(int n) { return static_cast<std::size_t>(n); }
std::size_t lines(std::size_t bytes) { return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes; }

std::uint16_t bf16(float x) {
  std::uint16_t out = 0;
  quantize_row(Type::bf16, &x, std::as_writable_bytes(std::span(&out, 1)).data(), 1);
  return out;
}

// The bf16 that is not below x, which is not below 0.
std::uint16_t bf16_above(float x) {
  return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) + 0xffff) >> 16);
}
float value(std::uint16_t half) { return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16); }

float greatest(std::span<const float> weights) {
  float most = 0;
  for (const float w : weights) most = std::max(most, std::abs(w));
  return most;
}

// 0 where nothing can be told from zero.
float step_for(float most) { return most >= 0x1p-100f ? most / 127 : 0; }
std::uint8_t code(float weight, float step) {
  const float level = step == 0 ? 0 : std::clamp(std::nearbyint(weight / step), -127.0f, 127.0f);
  return static_cast<std::uint8_t>(static_cast<int>(level) + 128);
}

// An int8 matrix as Narrow8Job has it, codes first.
struct Int8 {
  std::byte* at;
  int inputs, outputs;

  std::size_t code_bytes() const { return lines(size(outputs) * size(narrow8_inputs(inputs))); }
  std::size_t bytes() const {
    return code_bytes() + lines(size(outputs) * size(narrow8_blocks(inputs)) * sizeof(std::uint16_t));
  }
  std::uint8_t* codes() const { return reinterpret_cast<std::uint8_t*>(at); }
  std::uint16_t* scales() const { return reinterpret_cast<std::uint16_t*>(at + code_bytes()); }

  // Weights that are not given are zero.
  void pack(int output, std::span<const float> weights) const {
    const int first = output / kLanes * kLanes, lane = output - first, width = std::min(kLanes, outputs - first);
    std::uint8_t* to = codes() + size(first) * size(narrow8_inputs(inputs));
    std::uint16_t* scale = scales() + size(first) * size(narrow8_blocks(inputs)) + lane;
    for (int begin = 0; begin < inputs; begin += kNarrow8Block, scale += width) {
      const int count = std::min(narrow8_inputs(inputs) - begin, kNarrow8Block);
      const auto rest = weights.subspan(std::min(weights.size(), size(begin)));
      const auto block = rest.first(std::min(rest.size(), size(count)));
      *scale = bf16_above(step_for(greatest(block)));
      for (int i = 0; i < count; ++i)
        to[4 * ((begin + i) / 4 * width + lane) + i % 4] =
            code(size(i) < block.size() ? block[size(i)] : 0, value(*scale));
    }
  }
  Narrow8Job job(int first, int count, float scale) const {
    CHECK(first % kLanes == 0 && (count % kLanes == 0 || first + count == outputs), "a job has whole tiles");
    Narrow8Job job{};
    job.weights = codes() + size(first) * size(narrow8_inputs(inputs));
    job.scales = scales() + size(first) * size(narrow8_blocks(inputs));
    job.inputs = inputs;
    job.outputs = count;
    job.scale = scale;
    return job;
  }
};

}  // namespace

std::size_t NarrowIn::bytes() const {
  if (form_ == NarrowForm::int8) return Int8{at_, inputs_, outputs_}.bytes();
  return lines(size(outputs_) * size(narrow_inputs(inputs_)) * sizeof(std::uint16_t));
}

void NarrowIn::pack(int output, std::span<const float> weights) {
  CHECK(output < outputs_ && weights.size() == size(inputs_), "weights belong to an output");
  if (form_ == NarrowForm::int8) return Int8{at_, inputs_, outputs_}.pack(output, weights);
  std::byte* to = at_ + size(output) * size(narrow_inputs(inputs_)) * sizeof(std::uint16_t);
  quantize_row(Type::bf16, weights.data(), to, inputs_);
}

NarrowJob NarrowIn::job(int first, int count, float scale) const {
  return {.weights = reinterpret_cast<const std::uint16_t*>(at_) + size(first) * size(narrow_inputs(inputs_)),
          .inputs = inputs_,
          .outputs = count,
          .scale = scale};
}

Narrow8Job NarrowIn::job8(int first, int count, float scale) const {
  return Int8{at_, inputs_, outputs_}.job(first, count, scale);
}

std::size_t NarrowOut::bytes() const {
  if (form_ == NarrowForm::int8) return Int8{at_, inputs_, outputs_}.bytes();
  return lines(size((outputs_ + kLanes - 1) / kLanes) * size(kLanes * inputs_) * sizeof(std::uint16_t));
}

void NarrowOut::pack(int output, std::span<const float> weights) {
  CHECK(output < outputs_ && weights.size() <= size(inputs_), "weights belong to an output");
  if (form_ == NarrowForm::int8) return Int8{at_, inputs_, outputs_}.pack(output, weights);
  const std::size_t tile = size(output / kLanes), lane = size(output % kLanes);
  auto* to = reinterpret_cast<std::uint16_t*>(at_) + tile * size(kLanes * inputs_);
  for (std::size_t i = 0; i < weights.size(); ++i) to[(i / 2 * kLanes + lane) * 2 + i % 2] = bf16(weights[i]);
}

NarrowJob NarrowOut::job(int first, int count) const {
  CHECK(first % kLanes == 0, "a job begins with a tile");
  return {.weights = reinterpret_cast<const std::uint16_t*>(at_) + size(first) * size(inputs_),
          .inputs = inputs_,
          .outputs = count,
          .scale = 1};
}

Narrow8Job NarrowOut::job8(int first, int count) const {
  Narrow8Job job = Int8{at_, inputs_, outputs_}.job(first, count, 1);
  job.add = true;
  return job;
}

}  // namespace ashlar::kernels
