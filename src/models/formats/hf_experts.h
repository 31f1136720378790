// Experts in Hugging Face folders: a tensor for each expert, or all of them in MXFP4 as gpt-oss has them, put together
// as GGUF has them: one tensor for all.
#pragma once

#include <vector>

#include "base/result.h"
#include "models/formats/hf_tensors.h"

namespace ashlar::models {

// Matrices named PREFIX.experts.3.PART.weight become one PREFIX.experts.PART.weight [experts, rows, columns]; of
// gpt-oss, gate and up, whose rows alternate, come apart. Others stay as they are. corrupt: an expert is missing or
// unlike the others. `place` is what errors call the folder.
Result<std::vector<Stored>> stack_experts(std::vector<Stored> stored, std::string_view place);

// A part of a matrix in MXFP4: "..._blocks" or "..._scales".
bool is_mxfp4_part(std::string_view name);

// The matrices whose parts those are, as PREFIX.experts.PART.weight of Type::mxfp4. corrupt: a part is missing, or has
// another shape than the other one asks. `weights` must outlive the result.
Result<std::vector<Stored>> mxfp4_matrices(const safetensors::Checkpoint& weights);

}  // namespace ashlar::models
