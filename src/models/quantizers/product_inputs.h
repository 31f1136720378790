// What meets one product of a layer, told from a text: in the model as it is being made, and how far that is from what
// it meets in the model as it is.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/matrix.h"
#include "models/quantizers/layer_walk.h"

namespace ashlar::models {

// A few tokens, a text's first above all, have activations many times as large as the others' (Sun et al. 2024,
// arXiv:2402.17762). The next norm takes that back, so they must not outweigh the others here.
class RowLimit {
 public:
  // What each row of x [rows, n] is to be multiplied with: those longer than twice the usual length, that of the first
  // rows seen, are cut to it.
  std::vector<float> factors(const float* x, std::size_t ld, std::size_t n, int rows, ThreadPool& pool);

 private:
  double most_ = 0;  // 0: none were seen
};

// x: inputs in the model as it is being made; x0: of the same tokens in the model as it is, divided by the scales if
// the product has some.
struct ProductInputs {
  std::vector<float> h;  // [n, n] mean x x^T
  // What tells of x0 - x: mean x (x0 - x)^T, [n, n]; or, where the product has fewer rows than columns, the mean of
  // W (x0 - x) x^T, [rows of all its tensors, n], which is smaller.
  std::vector<float> off;
  bool by_output = false;

  // W mean (x0 - x) x^T for one of the product's tensors, whose values are w: [rows, n].
  Result<std::vector<float>> pull(const LayerWalk::Product& product, const gguf::Tensor& tensor,
                                  std::span<const float> w, ThreadPool& pool) const;
};

// A product as it is to be: its columns times `scale` (empty: as they were), and its inputs divided by that, which
// `made` does already; w: its tensors so.
struct ProductNow {
  std::size_t index = 0;  // among the walks' products
  std::span<const float> scale;
  std::span<const kernels::RawMatrix> w;
};

// Of the layer that both walks, over the same tokens, have loaded. `look` is called before each window. exhausted: no
// memory.
Result<ProductInputs> measure_inputs(LayerWalk& made, LayerWalk& plain, const ProductNow& now, ThreadPool& pool,
                                     const LayerWalk::Look& look);

}  // namespace ashlar::models
