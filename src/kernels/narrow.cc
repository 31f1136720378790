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
std::int8_t code(float weight, float step) {
  return step == 0 ? std::int8_t{0}
                   : static_cast<std::int8_t>(std::clamp(std::nearbyint(weight / step), -127.0f, 127.0f));
}

}  // namespace

std::size_t NarrowIn::bytes() const {
  if (form_ == NarrowForm::bf16) return lines(size(outputs_) * size(narrow_inputs(inputs_)) * sizeof(std::uint16_t));
  return size(outputs_) * size(narrow8_inputs(inputs_)) +
         lines(size(outputs_) * size(narrow8_blocks(inputs_)) * sizeof(float));
}

float* NarrowIn::scales() const {
  return reinterpret_cast<float*>(at_ + size(outputs_) * size(narrow8_inputs(inputs_)));
}

void NarrowIn::pack(int output, std::span<const float> weights) {
  CHECK(output < outputs_ && weights.size() == size(inputs_), "weights belong to an output");
  if (form_ == NarrowForm::bf16) {
    std::byte* to = at_ + size(output) * size(narrow_inputs(inputs_)) * sizeof(std::uint16_t);
    return quantize_row(Type::bf16, weights.data(), to, inputs_);
  }
  std::int8_t* to = codes() + size(output) * size(narrow8_inputs(inputs_));
  float* scale = scales() + size(output) * size(narrow8_blocks(inputs_));
  for (std::size_t begin = 0; begin < weights.size(); begin += kNarrow8Block) {
    const auto block = weights.subspan(begin, std::min(weights.size() - begin, size(kNarrow8Block)));
    *scale = step_for(greatest(block));
    for (const float w : block) *to++ = code(w, *scale);
    ++scale;
  }
}

NarrowJob NarrowIn::job(int first, int count, float scale) const {
  return {.weights = reinterpret_cast<const std::uint16_t*>(at_) + size(first) * size(narrow_inputs(inputs_)),
          .inputs = inputs_,
          .outputs = count,
          .scale = scale};
}

Narrow8Job NarrowIn::job8(int first, int count) const {
  return {.weights = codes() + size(first) * size(narrow8_inputs(inputs_)),
          .scales = scales() + size(first) * size(narrow8_blocks(inputs_)),
          .inputs = inputs_,
          .outputs = count};
}

std::size_t NarrowOut::bytes() const {
  const std::size_t tiles = size((outputs_ + kLanes - 1) / kLanes);
  if (form_ == NarrowForm::bf16) return lines(tiles * size(kLanes * inputs_) * sizeof(std::uint16_t));
  return lines(tiles * size(narrow8_tile_bytes(inputs_)));
}

void NarrowOut::pack(int output, std::span<const float> weights) {
  CHECK(output < outputs_ && weights.size() <= size(inputs_), "weights belong to an output");
  const std::size_t tile = size(output / kLanes), lane = size(output % kLanes);
  const auto place = [&](std::size_t input) { return (input / 2 * kLanes + lane) * 2 + input % 2; };
  if (form_ == NarrowForm::bf16) {
    auto* to = reinterpret_cast<std::uint16_t*>(at_) + tile * size(kLanes * inputs_);
    for (std::size_t i = 0; i < weights.size(); ++i) to[place(i)] = bf16(weights[i]);
    return;
  }
  auto* scales = reinterpret_cast<std::uint16_t*>(at_ + tile * size(narrow8_tile_bytes(inputs_)));
  auto* codes = reinterpret_cast<std::int8_t*>(scales + kLanes);
  scales[lane] = bf16_above(step_for(greatest(weights)));
  for (std::size_t i = 0; i < weights.size(); ++i) codes[place(i)] = code(weights[i], value(scales[lane]));
}

NarrowJob NarrowOut::job(int first, int count) const {
  CHECK(first % kLanes == 0, "a job begins with a tile");
  return {.weights = reinterpret_cast<const std::uint16_t*>(at_) + size(first) * size(inputs_),
          .inputs = inputs_,
          .outputs = count,
          .scale = 1};
}

Narrow8Job NarrowOut::job8(int first, int count) const {
  CHECK(first % kLanes == 0, "a job begins with a tile");
  return {
      .weights = reinterpret_cast<const std::int8_t*>(at_) + size(first / kLanes) * size(narrow8_tile_bytes(inputs_)),
      .inputs = inputs_,
      .outputs = count};
}

}  // namespace ashlar::kernels
