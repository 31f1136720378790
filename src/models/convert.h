// A Hugging Face folder as a GGUF file, in the layout that other engines read too; adapters merged into a model.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/formats/new_file.h"

namespace ashlar::models {

struct ConvertFacts {
  std::string architecture;
  int tensors = 0;
  std::uint64_t bytes = 0;  // of the tensors written
  int merged = 0;           // matrices that an adapter changed
};

// Told before each tensor, and every few megabytes within it: bytes written of the tensors' total, and its name there.
// An error stops the work.
using ConvertWatch = std::function<Status(std::uint64_t done, std::uint64_t total, std::string_view tensor)>;

// Writes a folder, or a GGUF file that adapters are to be merged into; does not commit. Weights keep their type; those
// that an adapter changes are rounded to it once. Holds one tensor at a time. not_found, corrupt: a part of the folder
// is missing, broken, or at odds with config.json; invalid: a GGUF file without adapters, or an adapter for another
// base; unsupported: its architecture, a weight's type, an adapter of quantized weights; io: as NewFile::write().
Result<ConvertFacts> convert_model(const std::string& path, const std::vector<std::string>& adapters,
                                   const ConvertWatch& watch, NewFile& out);

}  // namespace ashlar::models
