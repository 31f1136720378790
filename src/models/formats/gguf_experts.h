// GGUF files from before the matrices of experts were stacked (Mixtral's of early 2024): "blk.3.ffn_up.5.weight" is
// expert 5's, where later files have "blk.3.ffn_up_exps.weight" for all of them.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/formats/gguf.h"

namespace ashlar::models::gguf {

// Puts one tensor without data in the place of each layer's of a kind; the assembly makes its bytes, and owns its name.
// nullptr: there are none, and nothing has changed. `place` is what errors call the file. corrupt: an expert is
// missing, or is of another type or size than the first.
Result<std::shared_ptr<const Assembly>> stack_old_experts(std::vector<Tensor>& tensors, std::string_view place);

}  // namespace ashlar::models::gguf
