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

// Reads, of what is there: the tokens (hf_words.h); tokenizer_config.json, special_tokens_map.json,
// added_tokens.json, generation_config.json, of config.json the model's type; chat_template.jinja, else the settings'
// templates, else chat_template.json; additional_chat_templates. not_found: no vocabulary. corrupt, unsupported: as
// the readers of those. too_large: a file beyond what such files have.
Result<FolderText> read_folder_text(const std::string& folder);

}  // namespace ashlar::models
