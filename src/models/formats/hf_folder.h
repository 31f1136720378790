// A Hugging Face folder, seen as the GGUF file that it can be converted to: the same keys, the same tensors. What
// runs a folder and what converts it begin here, so that both compute the same.
#pragma once

#include <string>

#include "base/result.h"
#include "models/formats/gguf.h"
#include "models/formats/quantized_checkpoint.h"

namespace ashlar::models {

// config.json, generation_config.json, *.safetensors, vocabulary and chat templates of a folder. Weights keep their
// type (F32, F16, BF16, or what quantized_checkpoint.h has for `whom`); vectors become F32. Tensors whose bytes are as
// they lie in the shards are read there. not_found, corrupt: a part of the folder is missing, broken, or at odds with
// config.json; unsupported: its architecture, or a weight's type.
Result<gguf::File> open_folder(const std::string& folder, RowsFor whom = RowsFor::products);

// The vocabulary and chat templates alone: no weights are looked for. Errors likewise.
Result<gguf::File> open_folder_text(const std::string& folder);

}  // namespace ashlar::models
