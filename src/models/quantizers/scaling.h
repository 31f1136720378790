// Scales for the columns of matrices, undone where their input comes from: a norm's weights, or the rows of the
// matrix before. The model computes the same, but its matrices (AWQ) or its activations (SmoothQuant) round better.
#pragma once

#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/quantizers/layer_walk.h"

namespace ashlar::models {

// What the inputs of one product were like.
struct InputStatistics {
  std::vector<float> h;          // [n, n] mean x x^T; empty where nobody needs it
  std::vector<float> magnitude;  // [n] mean |x|
  std::vector<float> most;       // [n] greatest |x|
};

// One layer's tensors while they are being changed.
class LayerFloats {
 public:
  LayerFloats(const LayerWalk& walk, int layer, const Shape& shape, ThreadPool& pool)
      : walk_(walk), layer_(layer), shape_(shape), pool_(pool) {}
  // The values as they are now; read from the file at the first call.
  std::vector<float>& of(const gguf::Tensor& tensor);
  // They are no longer needed.
  void drop(const gguf::Tensor& tensor) { floats_.erase(&tensor); }
  // Tensors that were changed: not those only read.
  std::span<const gguf::Tensor* const> changed() const { return changed_; }

  // Whether the input of `product` may be divided, and with which of its columns each shares its divisor: columns
  // with the same number; empty: it may not.
  std::vector<int> sharing(const LayerWalk::Product& product) const;
  // Columns of `product` times `scale`, and what gives them divided by it.
  void scale(const LayerWalk::Product& product, std::span<const float> scale);

 private:
  const gguf::Tensor* source_of(const LayerWalk::Product& product) const;
  void change(const gguf::Tensor& tensor);

  const LayerWalk& walk_;
  int layer_;
  const Shape& shape_;
  ThreadPool& pool_;
  std::map<const gguf::Tensor*, std::vector<float>> floats_;
  std::vector<const gguf::Tensor*> changed_;
};

// Activation-aware scales (Lin et al. 2023, arXiv:2306.00978): mean |x| to the power that leaves the least error of
// the product's output once `round` has made its tensors' rows what they become. All ones: none is better.
using RoundRow =
    std::function<void(const gguf::Tensor& tensor, std::span<float> row, std::span<const float> importance)>;
Result<std::vector<float>> awq_scales(const LayerWalk::Product& product, LayerFloats& floats,
                                      const InputStatistics& input, std::span<const int> sharing, const RoundRow& round,
                                      ThreadPool& pool);

// SmoothQuant's (Xiao et al. 2022, arXiv:2211.10438): outliers move half-way from activations into weights.
std::vector<float> smooth_scales(const LayerWalk::Product& product, LayerFloats& floats, const InputStatistics& input,
                                 std::span<const int> sharing, float strength = 0.5f);

}  // namespace ashlar::models
