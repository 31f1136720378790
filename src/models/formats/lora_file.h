// LoRA adapters as they are published: a PEFT folder (adapter_config.json, adapter_model.safetensors) or a GGUF file
// (general.type "adapter", tensors NAME.lora_a and NAME.lora_b).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/matrix.h"
#include "models/model.h"

namespace ashlar::models {

// What stands beside one matrix: scale * B A.
struct LoraWeight {
  std::string name;      // GGUF's, of the matrix: "blk.0.attn_q.weight"
  kernels::RawMatrix a;  // [rank, columns]
  kernels::RawMatrix b;  // [rows, rank], in the order of rows that GGUF has
  float scale = 1;       // alpha / rank, or alpha / sqrt(rank)
};

struct LoraFile {
  std::string path;
  std::vector<LoraWeight> weights;    // by name
  std::shared_ptr<const void> owner;  // of the matrices' bytes
};

inline constexpr int kMostRank = 4096;

// `base`: the model that it is for. not_found, io: it cannot be read; corrupt: broken; invalid: it is for another
// architecture; unsupported: what is no plain LoRA (DoRA, biases, whole modules, embeddings), or pickled weights.
Result<LoraFile> open_lora(const std::string& path, const Shape& base);

}  // namespace ashlar::models
