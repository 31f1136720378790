#include "models/formats/gguf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "text/pretokenizer.h"

namespace ashlar::models {
namespace {

using gguf::Elements;
using gguf::File;
using gguf::Value;
using gguf::ValueType;

constexpr std::size_t kMaxTokens = 1 << 24;

Error bad(const File& file, std::string_view key, std::string what) {
  return Error{Code::corrupt, fmt::format("{}: key '{}' {}", file.path(), key, what)};
}

// An array's elements, each made a T by `convert` (an optional); empty where the key is absent.
template <class T, class Convert>
Result<std::vector<T>> read_list(const File& file, std::string_view key, std::string_view expected, Convert convert) {
  std::vector<T> list;
  const Value* array = file.find(key);
  if (array == nullptr) return list;
  if (array->type != ValueType::array) return bad(file, key, fmt::format("is a {}, not an array", name(array->type)));
  list.reserve(std::min<std::size_t>(array->count, array->bytes.size() / 8 + 1));  // a string takes 8 bytes of the file
  Value element;
  for (Elements elements(*array); elements.next(element);) {
    auto converted = convert(element);
    if (!converted)
      return bad(file, key,
                 fmt::format("holds a {} at index {}; {} is expected", name(element.type), list.size(), expected));
    list.push_back(static_cast<T>(*converted));
  }
  return list;
}

Result<std::vector<std::string>> read_strings(const File& file, std::string_view key) {
  return read_list<std::string>(file, key, "a string", [](const Value& v) { return v.string(); });
}

// One entry for each token, or none at all.
Status check_length(const File& file, std::string_view key, std::size_t length, std::size_t tokens) {
  if (length == 0 || length == tokens) return {};
  return bad(file, key, fmt::format("has {} entries for {} tokens", length, tokens));
}

Status read_ids(const File& file, text::Vocabulary& vocabulary) {
  const struct {
    std::string_view key;
    text::TokenId& id;
  } ids[] = {
      {"tokenizer.ggml.bos_token_id", vocabulary.bos},
      {"tokenizer.ggml.eos_token_id", vocabulary.eos},
      {"tokenizer.ggml.eot_token_id", vocabulary.eot},
      {"tokenizer.ggml.eom_token_id", vocabulary.eom},
      {"tokenizer.ggml.unknown_token_id", vocabulary.unknown},
      {"tokenizer.ggml.seperator_token_id", vocabulary.separator},  // GGUF's own spelling
      {"tokenizer.ggml.padding_token_id", vocabulary.padding},
      {"tokenizer.ggml.cls_token_id", vocabulary.cls},
      {"tokenizer.ggml.mask_token_id", vocabulary.mask},
  };
  for (const auto& [key, id] : ids) {
    const auto found = TRY(file.maybe<std::int64_t>(key));
    // Writers that have no such token put -1, as i32 or as u32.
    if (!found || *found == -1 || *found == 0xFFFFFFFF) continue;
    if (*found < 0 || *found >= static_cast<std::int64_t>(vocabulary.tokens.size()))
      return bad(file, key, fmt::format("is {}; the vocabulary has {} tokens", *found, vocabulary.tokens.size()));
    id = static_cast<text::TokenId>(*found);
  }
  return {};
}

// Raw bytes, which writers store as a list of i8 or u8.
Result<std::string> read_charsmap(const File& file) {
  constexpr std::string_view kKey = "tokenizer.ggml.precompiled_charsmap";
  const Value* value = file.find(kKey);
  if (value == nullptr) return std::string();
  const bool bytes =
      value->type == ValueType::array && (value->element_type == ValueType::u8 || value->element_type == ValueType::i8);
  if (!bytes && value->type != ValueType::string) return bad(file, kKey, "is neither a list of bytes nor a string");
  return std::string(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
}

// What a family does unless its file says otherwise.
void set_defaults(text::Vocabulary& v) {
  const bool sentencepiece = v.model == "llama", unigram = v.model == "t5", wordpiece = v.model == "bert";
  const auto pre = text::find_pre_tokenizer(v.pre);
  const bool begun = v.model == "gemma4" || (v.model == "gpt2" && pre && (*pre)->add_bos);
  v.add_bos = sentencepiece || wordpiece || begun;
  v.add_eos = unigram || wordpiece;
  v.add_space_prefix = sentencepiece || unigram;
}

}  // namespace

void find_ends(text::Vocabulary& v) {
  static constexpr std::string_view kEnds[] = {
      "<|eot_id|>",
      "<|eom_id|>",
      "<|im_end|>",
      "<|end|>",
      "<|endoftext|>",
      "<|end_of_text|>",
      "<end_of_turn>",
      "<|endofturn|>",
      "<|return|>",
      "<|call|>",
      "<EOT>",
      "_<EOT>",
      "<|END_OF_TURN_TOKEN|>",
      "<|eot|>",
      "<eos>",
      "</s>",
      "<|end_of_turn|>",
      "<｜end▁of▁sentence｜>",
  };
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    const bool special =
        v.types.empty() || v.types[i] == text::TokenType::control || v.types[i] == text::TokenType::user_defined;
    if (special && std::ranges::find(kEnds, v.tokens[i]) != std::end(kEnds))
      v.end_of_generation.push_back(static_cast<text::TokenId>(i));
  }
}

Result<text::Vocabulary> read_vocabulary(const File& file) {
  text::Vocabulary v;
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens", kScores = "tokenizer.ggml.scores",
                             kTypes = "tokenizer.ggml.token_type";
  if (file.find(kTokens) == nullptr || file.find("tokenizer.ggml.model") == nullptr)
    return Error{Code::not_found, fmt::format("{}: the file has no vocabulary", file.path())};
  v.model = TRY(file.need<std::string_view>("tokenizer.ggml.model"));
  v.pre = TRY(file.get<std::string_view>("tokenizer.ggml.pre", ""));
  v.tokens = TRY(read_strings(file, kTokens));
  if (v.tokens.empty() || v.tokens.size() > kMaxTokens)
    return bad(file, kTokens, fmt::format("has {} entries; 1 to {} are allowed", v.tokens.size(), kMaxTokens));
  v.scores = TRY(read_list<float>(file, kScores, "a number", [](const Value& x) { return x.number(); }));
  TRY(check_length(file, kScores, v.scores.size(), v.tokens.size()));
  v.types = TRY(read_list<text::TokenType>(file, kTypes, "a token type from 0 to 6", [](const Value& x) {
    const auto type = x.integer();
    return type && *type >= 0 && *type <= 6 ? type : std::nullopt;
  }));
  TRY(check_length(file, kTypes, v.types.size(), v.tokens.size()));
  v.merges = TRY(read_strings(file, "tokenizer.ggml.merges"));
  v.precompiled_charsmap = TRY(read_charsmap(file));
  TRY(read_ids(file, v));
  v.end_of_generation = TRY(read_list<text::TokenId>(file, kEndsKey, "a token", [&](const Value& x) {
    const auto id = x.integer();
    return id && *id >= 0 && *id < static_cast<std::int64_t>(v.tokens.size()) ? id : std::nullopt;
  }));
  if (v.eos < 0 && !v.end_of_generation.empty()) v.eos = v.end_of_generation.front();
  find_ends(v);
  set_defaults(v);
  v.add_bos = TRY(file.get("tokenizer.ggml.add_bos_token", v.add_bos));
  v.add_eos = TRY(file.get("tokenizer.ggml.add_eos_token", v.add_eos));
  v.add_space_prefix = TRY(file.get("tokenizer.ggml.add_space_prefix", v.add_space_prefix));
  v.prefix_once = TRY(file.get(kPrefixOnceKey, false));
  v.ignore_merges = TRY(file.maybe<bool>(kIgnoreMergesKey));
  const bool composed = TRY(file.get(kOldComposeKey, false));
  v.compose = TRY(file.get(kComposeKey, composed));
  v.lower_case = TRY(file.maybe<bool>(kLowerCaseKey));
  v.strip_accents = TRY(file.maybe<bool>(kStripAccentsKey));
  v.remove_extra_whitespaces = TRY(file.get("tokenizer.ggml.remove_extra_whitespaces", v.remove_extra_whitespaces));
  return v;
}

Result<ChatTemplates> read_chat_templates(const File& file) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  ChatTemplates templates;
  templates.source = TRY(file.get<std::string_view>(kKey, ""));
  for (const gguf::Key& key : file.keys()) {
    if (!key.name.starts_with(kKey) || key.name.size() < kKey.size() + 2 || key.name[kKey.size()] != '.') continue;
    const auto source = TRY(file.need<std::string_view>(key.name));
    templates.named.emplace(key.name.substr(kKey.size() + 1), source);
  }
  return templates;
}

}  // namespace ashlar::models
