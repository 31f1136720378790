// The files of a Hugging Face folder that say how texts are read, and what several of them are asked.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/json_full.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace ashlar::models {

struct TextFolder {
  static constexpr std::size_t kMaxVocabulary = 256 << 20, kMaxSettings = 16 << 20;
  std::filesystem::path path;

  std::string name(std::string_view file) const { return (path / file).string(); }
  // nullopt: there is no such file. too_large: over `most` bytes.
  Result<std::optional<std::string>> read(std::string_view file, std::size_t most) const;
  // An object; empty where there is no such file. corrupt: not JSON, or no object.
  Result<Json> settings(std::string_view file) const;
};

// A token in settings: "<s>", or {"content": "<s>", ...}; empty: neither.
std::string_view content_of(const Json& token);
std::string_view content_of(const Json& settings, std::string_view key);
// A member that is true or false.
std::optional<bool> flag_of(const Json& settings, std::string_view key);

// tokenizer_config.json, completed by special_tokens_map.json and by what the tokenizer's class, or else the model's
// type in config.json, takes for granted.
struct TextSettings {
  Json json;
  std::string kind;  // "Bert" of BertTokenizerFast; where no class is named, by the model's type; else empty
  // All that it calls special: the tokens with a role, and additional ones.
  std::set<std::string, std::less<>> specials;
};
Result<TextSettings> read_text_settings(const TextFolder& folder);

// The token ids of their roles, as far as the vocabulary has the tokens.
void set_roles(const TextSettings& settings, text::Vocabulary& v);

// Into a vocabulary without added tokens of its own: those of added_tokens_decoder, else of added_tokens.json; what is
// special becomes a control token. `complete`: it has them already, and only those that it lacks are added.
// corrupt: a broken entry.
Status add_tokens(const TextFolder& folder, const TextSettings& settings, bool complete, text::Vocabulary& v);

}  // namespace ashlar::models
