// A Hugging Face folder as a GGUF file, in the layout that other engines read too.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "models/formats/new_file.h"

namespace ashlar::models {

struct ConvertFacts {
  std::string architecture;
  int tensors = 0;
  std::uint64_t bytes = 0;  // of the tensors written
};

// Told before each tensor, and every few megabytes within it: bytes written of the tensors' total, and its name there.
// An error stops the work.
using ConvertWatch = std::function<Status(std::uint64_t done, std::uint64_t total, std::string_view tensor)>;

// Writes config.json, weights and vocabulary of `folder`; does not commit. Weights keep their type (F32, F16, BF16);
// vectors become F32. Holds one tensor at a time. not_found, corrupt: a part of the folder is missing, broken, or at
// odds with config.json; unsupported: its architecture, a quantized checkpoint, a weight's type; io: as
// NewFile::write().
Result<ConvertFacts> convert_folder(const std::string& folder, const ConvertWatch& watch, NewFile& out);

}  // namespace ashlar::models
