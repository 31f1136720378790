// What a text's activations are like where they meet the matrices of one layer.
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/layer_walk.h"
#include "models/quantizers/product_inputs.h"
#include "models/quantizers/scaling.h"

namespace ashlar::models {

// Belongs to one thread, which the pool helps. Its owner passes every product's input on, as LayerWalk shows it.
class InputMeasure {
 public:
  // `products` of the loaded layer; mean products are taken where `with_products` says so.
  InputMeasure(std::span<const LayerWalk::Product> products, std::int64_t tokens, bool with_products, ThreadPool& pool);

  void see(const LayerWalk::Product& product, const float* h, std::size_t ld, int rows);
  // After the last see(): by LayerWalk::Product::packed. exhausted: no memory was left on the way.
  Result<std::map<const std::byte*, InputStatistics>> finish();

 private:
  std::int64_t tokens_;
  ThreadPool& pool_;
  Status failed_;
  std::map<const std::byte*, ProductSum> grams_;
  std::map<const std::byte*, RowLimit> limits_;
  std::map<const std::byte*, InputStatistics> inputs_;
  std::vector<float> held_;
};

}  // namespace ashlar::models
