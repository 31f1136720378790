// What a Hugging Face folder says of its model, as GGUF's keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "models/formats/gguf_writer.h"
#include "models/formats/hf_config.h"
#include "models/formats/hf_vocabulary.h"

namespace ashlar::models {

// general.* and ARCHITECTURE.*. `file_type`: general.file_type, if there is one.
void add_config_keys(const HfConfig& hf, std::optional<std::uint32_t> file_type, const std::string& folder,
                     gguf::Writer& writer);

// tokenizer.*. The list of tokens is filled up, or its last added ones cut, to the embedding's rows.
void add_vocabulary_keys(const FolderText& text, int rows, gguf::Writer& writer);

}  // namespace ashlar::models
