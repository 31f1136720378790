// A smaller version of a Hugging Face folder, as a folder of the same kind: what transformers, vLLM and we ourselves
// read as GPTQ, AWQ, compressed-tensors, FP8 or bitsandbytes. Matrices of the layers become codes; embedding, output,
// norms, biases and what chooses experts stay as they are, and so do all other files.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/formats/new_folder.h"
#include "models/formats/safetensors.h"
#include "models/loader.h"
#include "models/quantizers/folder_form.h"

namespace ashlar::models {

// A tensor of the folder, and what the model knows it as.
struct FolderTensor {
  const safetensors::Tensor* source = nullptr;
  std::string module;                    // its name without the kind
  const gguf::Tensor* tensor = nullptr;  // nullptr: of experts, of other towers
  int woven_heads = 0;                   // as Renamed has them
  float plus = 0;
  bool quantized = false;
};

struct FolderPlan {
  FolderForm form;
  std::string folder;
  safetensors::Checkpoint weights;
  std::string config;                        // the new config.json
  std::vector<FolderTensor> tensors;         // in the order of their names
  std::vector<std::string> kept;             // modules with matrices that are not quantized
  std::vector<std::string> misfits;          // of those, why each could not be: one sentence
  std::int64_t quantized = 0, elements = 0;  // weights that become codes, of all
  std::uint64_t bytes = 0;                   // of all tensors afterwards, without LLM.int8()'s outliers
};

struct FolderLimits {
  std::int64_t rtn_parameters = 6'700'000'000;  // larger models are not rounded to nearest
};

// `model`: of open_model(open_file(folder)); it must outlive the plan. invalid: not a folder, or quantized already;
// unsupported: an encoder, or no matrix fits the form; too_large: more than `rtn_parameters` to round to nearest;
// not_found, corrupt: as the folder's readers.
Result<FolderPlan> plan_folder(const LoadedModel& model, const std::string& folder, const FolderForm& form,
                               const FolderLimits& limits);

// Tensors that a method has made, by name: they stand for those of the same module. Borrowed.
using MadeTensors = std::map<std::string_view, const safetensors::Tensor*>;

// Told now and then on the caller's thread: weights done of `elements`, and the tensor at work. An error stops the
// work and is returned.
using FolderWatch = std::function<Status(std::int64_t done, std::string_view tensor)>;

inline constexpr std::uint64_t kShardBytes = 5'000'000'000;  // as publishers cut them

// Writes the folder as planned; does not commit. Matrices that no method has made are rounded to nearest. Holds one at
// a time. corrupt: a weight is not finite; invalid: one that the form cannot hold; io: as NewFolder.
Status write_folder(const FolderPlan& plan, const MadeTensors& made, ThreadPool& pool, const FolderWatch& watch,
                    NewFolder& out, std::uint64_t shard_bytes = kShardBytes);

// The floats of a tensor as it lies in the folder. corrupt: one is not finite.
Result<std::vector<float>> folder_floats(const FolderPlan& plan, const safetensors::Tensor& tensor, ThreadPool& pool);

}  // namespace ashlar::models
