// The vocabulary and chat templates of a Hugging Face folder.
#pragma once

#include <string>

#include "base/result.h"
#include "models/formats/gguf_vocabulary.h"

namespace ashlar::models {

struct FolderText {
  text::Vocabulary vocabulary;
  ChatTemplates templates;
};

// Reads, of what is there: tokenizer.json, else tokenizer.model, else vocab.json with merges.txt;
// tokenizer_config.json, generation_config.json, chat_template.jinja. not_found: no vocabulary. corrupt, unsupported:
// as the readers of those. too_large: a file beyond what such files have.
Result<FolderText> read_folder_text(const std::string& folder);

}  // namespace ashlar::models
