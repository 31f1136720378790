// A tiny model as a Hugging Face folder, for tests: its tensors under their publishers' names and in their order.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "models/tiny_model_test.h"

namespace ashlar::models {

struct TinyFolderOptions {
  bool sharded = false;
  bool wrapped = false;                          // Gemma 3 as a part of a model that sees, with a tensor of its eyes
  bool new_rope = false;                         // rope_parameters, as transformers 5 writes them
  std::string generation;                        // generation_config.json
  std::string config;                            // an object: members set over config.json's
  std::function<std::string(std::string)> name;  // a tensor's, by what it would be called; empty: it is left out
};

void write_tiny_folder(const TinyModel& model, const std::filesystem::path& folder,
                       const TinyFolderOptions& options = {});

// A safetensors file of these tensors.
struct PlainTensor {
  std::string name, type;  // "F32"
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};
void write_safetensors(const std::filesystem::path& path, const std::vector<PlainTensor>& tensors);

// The rows of a matrix of the Llama family's q or k in the folder's order: what converters do, undone.
std::vector<std::byte> unwoven(std::span<const std::byte> bytes, std::size_t rows, std::size_t head_rows);

}  // namespace ashlar::models
