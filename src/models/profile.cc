#include "models/profile.h"

#include <algorithm>
#include <array>

#include "base/result.h"

namespace ashlar::models {

std::string_view name_of(Operation operation) {
  static constexpr std::array<std::string_view, kOperations> kNames{
      "embed",    "norm",      "quantize",         "qkv",   "qkv_bias", "head_norm",  "rope",
      "store_kv", "attention", "attention_output", "route", "gate_up",  "activation", "down",
      "add_up",   "logits"};
  return kNames[static_cast<std::size_t>(operation)];
}

Seen positions_seen(int window_or_all, int first_position, int rows) {
  if (rows < 1) return {};
  const std::int64_t first = first_position + 1, last = first_position + rows;  // what the first and the last row see
  const std::int64_t window = window_or_all > 0 ? window_or_all : last;
  const std::int64_t growing = std::clamp(window - first + 1, std::int64_t{0}, last - first + 1);
  return {.sum = growing * (first + first + growing - 1) / 2 + (rows - growing) * window,
          .together = last - std::max(std::int64_t{0}, first - window)};
}

Profile::Profile(int layers) : layers_(layers), spent_(static_cast<std::size_t>(kOperations * (layers + 1))) {}

void Profile::add(Operation operation, int layer, double seconds, const Cost& cost) {
  CHECK(layer >= 0 && layer <= layers_, "a layer of this model");
  Spent& spent = spent_[static_cast<std::size_t>(static_cast<int>(operation) * (layers_ + 1) + layer)];
  spent.seconds += seconds;
  ++spent.calls;
  spent.cost.bytes += cost.bytes;
  spent.cost.operations += cost.operations;
}

const Spent& Profile::at(Operation operation, int layer) const {
  return spent_[static_cast<std::size_t>(static_cast<int>(operation) * (layers_ + 1) + layer)];
}

Spent Profile::total(Operation operation) const {
  Spent sum;
  for (int layer = 0; layer <= layers_; ++layer) {
    const Spent& one = at(operation, layer);
    sum.seconds += one.seconds;
    sum.calls += one.calls;
    sum.cost.bytes += one.cost.bytes;
    sum.cost.operations += one.cost.operations;
  }
  return sum;
}

}  // namespace ashlar::models
