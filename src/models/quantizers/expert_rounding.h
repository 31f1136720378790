// The matrices of experts, rounded by what the rows that are routed to each of them are like.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/quantizers/gptq.h"
#include "models/quantizers/layer_walk.h"

namespace ashlar::models {

struct RoundedExperts {
  struct Tensor {
    const gguf::Tensor* tensor;
    std::vector<std::byte> bytes;
  };
  std::vector<Tensor> tensors;
  int unseen = 0;    // products of experts that no row was routed to: rounded to nearest
  int few = 0;       // that saw too few rows for GPTQ: errors are weighed by mean squares alone
  int products = 0;  // in all
};

// Those of the loaded layer whose type, by `type_of`, is a quantized one. With `gptq` as GPTQ does it, else with errors
// weighed by the mean squares of each expert's input. The text goes through the layer as often as it takes to keep the
// mean products within a gigabyte; `look` is called for each window. corrupt: a weight is not finite; exhausted: no
// memory.
Result<RoundedExperts> round_experts(LayerWalk& walk, const std::function<kernels::Type(const gguf::Tensor&)>& type_of,
                                     const GptqOptions* gptq, ThreadPool& pool, const LayerWalk::Look& look);

}  // namespace ashlar::models
