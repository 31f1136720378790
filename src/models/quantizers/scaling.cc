#include "models/quantizers/scaling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/blocks.h"
#include "kernels/matrix.h"

namespace ashlar::models {
namespace {

constexpr float kLeast = 1e-4f;    // scales stay within [kLeast, 1 / kLeast]
constexpr int kSampledRows = 192;  // of a product, on which scales are tried

bool has(const LayerWalk::Product& product, std::string_view part) {
  return std::ranges::any_of(product.tensors, [&](const gguf::Tensor* tensor) { return tensor->name.ends_with(part); });
}

// The means over columns that share a divisor.
std::vector<float> shared(std::span<const float> values, std::span<const int> sharing) {
  std::map<int, std::pair<double, int>> sums;
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto& [sum, count] = sums[sharing[i]];
    sum += values[i];
    ++count;
  }
  std::vector<float> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    out[i] = static_cast<float>(sums[sharing[i]].first / sums[sharing[i]].second);
  return out;
}

// About 1 in the middle, so that norms keep their size.
void centre(std::vector<float>& scale) {
  const auto [low, high] = std::ranges::minmax(scale);
  const float factor = 1 / std::sqrt(low * high);
  for (float& s : scale) s = std::clamp(s * factor, kLeast, 1 / kLeast);
}

}  // namespace

std::vector<float>& LayerFloats::of(const gguf::Tensor& tensor) {
  const auto found = floats_.find(&tensor);
  if (found != floats_.end()) return found->second;
  auto floats = floats_of(walk_.file(), tensor, pool_);
  CHECK(floats.has_value(), "a tensor that has been read once is read again");
  return floats_[&tensor] = std::move(*floats);
}

void LayerFloats::change(const gguf::Tensor& tensor) {
  if (std::ranges::find(changed_, &tensor) == changed_.end()) changed_.push_back(&tensor);
}

const gguf::Tensor* LayerFloats::source_of(const LayerWalk::Product& product) const {
  const auto named = [&](std::string_view part) { return walk_.find(tensor_name(layer_, part)); };
  const gguf::Tensor* source = nullptr;
  if (has(product, ".attn_q.weight") || has(product, ".attn_qkv.weight"))
    source = named("attn_norm.weight");
  else if (has(product, ".attn_output.weight"))
    return named("attn_v.weight");
  else if (has(product, ".ffn_down.weight"))
    return named("ffn_gate.weight") != nullptr ? named("ffn_up.weight") : nullptr;  // not where both are one tensor
  else if (has(product, ".ffn_up.weight"))
    source = named("ffn_norm.weight");
  return source != nullptr && source->rank == 1 && source->columns() == product.columns() ? source : nullptr;
}

std::vector<int> LayerFloats::sharing(const LayerWalk::Product& product) const {
  const gguf::Tensor* source = source_of(product);
  if (source == nullptr) return {};
  std::vector<int> out(static_cast<std::size_t>(product.columns()));
  std::iota(out.begin(), out.end(), 0);
  if (!has(product, ".attn_output.weight")) return out;
  // Query heads of a group read the same value head.
  if (source->rows() != std::int64_t{shape_.kv_heads} * shape_.head_dim ||
      product.columns() != shape_.heads * shape_.head_dim)
    return {};
  const int group = shape_.heads / shape_.kv_heads;
  for (int& i : out) i = i / shape_.head_dim / group * shape_.head_dim + i % shape_.head_dim;
  return out;
}

void LayerFloats::scale(const LayerWalk::Product& product, std::span<const float> scale) {
  const std::size_t n = scale.size();
  for (const gguf::Tensor* tensor : product.tensors) {
    std::vector<float>& w = of(*tensor);
    change(*tensor);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= scale[i % n];
  }
  const gguf::Tensor& source = *source_of(product);
  const std::vector<int> row_of = sharing(product);
  const auto divide_rows = [&](const gguf::Tensor& tensor, std::size_t columns) {
    std::vector<float>& values = of(tensor);
    change(tensor);
    std::vector<char> divided(values.size() / columns);
    for (std::size_t i = 0; i < n; ++i) {
      const auto row = static_cast<std::size_t>(row_of[i]);
      if (std::exchange(divided[row], 1) != 0) continue;
      for (std::size_t c = 0; c < columns; ++c) values[row * columns + c] /= scale[i];
    }
  };
  divide_rows(source, source.rank == 1 ? 1 : static_cast<std::size_t>(source.columns()));
  if (source.rank == 1) return;
  std::string bias(source.name);
  bias.replace(bias.rfind("weight"), 6, "bias");
  if (const gguf::Tensor* tensor = walk_.find(bias); tensor != nullptr) divide_rows(*tensor, 1);
}

Result<std::vector<float>> awq_scales(const LayerWalk::Product& product, LayerFloats& floats,
                                      const InputStatistics& input, std::span<const int> sharing, const RoundRow& round,
                                      ThreadPool& pool) {
  constexpr int kTries = 20;
  const auto n = static_cast<std::size_t>(product.columns());
  const kernels::RawMatrix raw{.type = kernels::Type::f32,
                               .rows = product.columns(),
                               .columns = product.columns(),
                               .data = reinterpret_cast<const std::byte*>(input.h.data())};
  const auto h = TRY(kernels::pack({&raw, 1}, pool));
  kernels::Activations activations;
  const std::vector<float> magnitude = shared(input.magnitude, sharing);
  std::vector<float> best(n, 1.0f), importance(n), off, y;
  double least = std::numeric_limits<double>::infinity();
  for (int step = 0; step < kTries; ++step) {
    std::vector<float> scale(n);
    for (std::size_t i = 0; i < n; ++i)
      scale[i] = std::pow(std::max(magnitude[i], kLeast), static_cast<float>(step) / kTries);
    centre(scale);
    for (std::size_t i = 0; i < n; ++i) importance[i] = input.h[i * (n + 1)] / (scale[i] * scale[i]);
    double loss = 0;
    for (const gguf::Tensor* tensor : product.tensors) {
      const std::vector<float>& w = floats.of(*tensor);
      const int rows = static_cast<int>(tensor->rows()), taken = std::min(rows, kSampledRows);
      off.resize(static_cast<std::size_t>(taken) * n);
      y.resize(off.size());
      pool.for_each(taken, [&](int row, int) {
        const float* from = w.data() + static_cast<std::size_t>(std::int64_t{row} * rows / taken) * n;
        std::vector<float> scaled(n);
        for (std::size_t i = 0; i < n; ++i) scaled[i] = from[i] * scale[i];
        round(*tensor, scaled, importance);
        for (std::size_t i = 0; i < n; ++i) off[static_cast<std::size_t>(row) * n + i] = scaled[i] / scale[i] - from[i];
      });
      activations.assign(off.data(), n, taken, static_cast<int>(n), h.forms(), pool);
      kernels::matmul(h, activations, y.data(), n, pool);
      double sum = 0;
      for (std::size_t i = 0; i < off.size(); ++i) sum += double{off[i]} * double{y[i]};
      loss += sum * rows / taken;
    }
    if (loss >= least) continue;
    least = loss;
    best = scale;
  }
  return best;
}

std::vector<float> smooth_scales(const LayerWalk::Product& product, LayerFloats& floats, const InputStatistics& input,
                                 std::span<const int> sharing, float strength) {
  const auto n = static_cast<std::size_t>(product.columns());
  std::vector<float> most(n, kLeast);
  for (const gguf::Tensor* tensor : product.tensors) {
    const std::vector<float>& w = floats.of(*tensor);
    for (std::size_t i = 0; i < w.size(); ++i) most[i % n] = std::max(most[i % n], std::abs(w[i]));
  }
  const std::vector<float> x = shared(input.most, sharing), weights = shared(most, sharing);
  std::vector<float> scale(n);
  for (std::size_t i = 0; i < n; ++i)
    scale[i] = std::pow(std::max(x[i], kLeast), strength) / std::pow(weights[i], 1 - strength);
  centre(scale);
  return scale;
}

}  // namespace ashlar::models
