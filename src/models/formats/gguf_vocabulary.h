// A GGUF file's vocabulary and chat templates (the keys tokenizer.*).
#pragma once

#include <map>
#include <string>

#include "base/result.h"
#include "models/formats/gguf.h"
#include "text/tokenizer.h"

namespace ashlar::models {

// Our own key: [i32], all tokens that end a text, as generation_config.json lists them.
inline constexpr std::string_view kEndsKey = "ashlar.eos_token_ids";
// And, where a Vocabulary's members are not what the family has.
inline constexpr std::string_view kPrefixOnceKey = "ashlar.tokenizer.prefix_once";
inline constexpr std::string_view kIgnoreMergesKey = "ashlar.tokenizer.ignore_merges";
// Text is composed first (NFC); files that this program wrote earlier say it with the second.
inline constexpr std::string_view kComposeKey = "tokenizer.ggml.normalizer.nfc";
inline constexpr std::string_view kOldComposeKey = "ashlar.tokenizer.compose";
inline constexpr std::string_view kLowerCaseKey = "tokenizer.ggml.normalizer.lowercase";
inline constexpr std::string_view kStripAccentsKey = "tokenizer.ggml.normalizer.strip_accents";

// corrupt: a key of the wrong type, lists whose lengths do not agree, an id out
// of range. not_found: the file has no vocabulary.
Result<text::Vocabulary> read_vocabulary(const gguf::File& file);

// Files name one EOS, but chat models end their turns with other tokens too: adds those of the published families that
// the vocabulary has as special tokens to its ends of generation.
void find_ends(text::Vocabulary& vocabulary);

struct ChatTemplates {
  std::string source;                        // the default one; empty: the file has none
  std::map<std::string, std::string> named;  // tokenizer.chat_template.NAME
};

// corrupt: a template that is not a string.
Result<ChatTemplates> read_chat_templates(const gguf::File& file);

}  // namespace ashlar::models
