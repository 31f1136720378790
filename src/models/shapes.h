// Known models by name, with random weights: for measuring speed without a file.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/loader.h"

namespace ashlar::models {

std::vector<std::string_view> shape_names();  // "llama-3.2-1b", ...

// A model of the shape, or with a number behind a colon of that many of its layers ("mixtral-8x7b:2"), in memory, its
// matrices of `type`: the name of a mix (mix.h). It has neither vocabulary nor template. invalid: an unknown shape or
// type, with the names that are known; exhausted: no memory.
Result<LoadedModel> random_model(std::string_view shape, std::string_view type, const LoadOptions& options,
                                 ThreadPool& pool);

// The very same model as a GGUF file at `out_path`, with the tokenizer keys of
// `vocabulary_path`, a GGUF file too. The vocabulary is padded to the shape's.
// invalid: also a vocabulary larger than the shape's.
Status write_random_model(std::string_view shape, std::string_view type, const std::string& vocabulary_path,
                          const std::string& out_path, ThreadPool& pool);

}  // namespace ashlar::models
