#include "models/formats/hf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "base/json_full.h"
#include "base/mapped_file.h"
#include "models/formats/sentencepiece_model.h"
#include "models/formats/token_list.h"
#include "models/formats/tokenizer_json.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using text::TokenId;
using text::TokenType;

constexpr std::size_t kMaxFile = 256 << 20, kMaxSettings = 16 << 20;

struct Folder {
  fs::path path;

  std::string name(std::string_view file) const { return (path / file).string(); }
  // nullopt: there is no such file.
  Result<std::optional<std::string>> read(std::string_view file, std::size_t most) const {
    std::error_code error;
    if (!fs::exists(path / file, error)) return std::nullopt;
    const MappedFile mapped = TRY(MappedFile::open(name(file)));
    if (mapped.bytes().size() > most)
      return Error{Code::too_large,
                   fmt::format("{}: {} bytes; at most {} are expected", name(file), mapped.bytes().size(), most)};
    return std::string(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  }
  // An object; empty where there is no such file.
  Result<Json> settings(std::string_view file) const {
    const auto text = TRY(read(file, kMaxSettings));
    if (!text) return Json::object();
    auto json = parse_json(*text, {.depth = 32, .members = 16'384});
    if (!json || !json->is_object())
      return Error{Code::corrupt,
                   fmt::format("{}: not a JSON object{}", name(file), json ? "" : ": " + json.error().message)};
    return std::move(*json);
  }
};

// "<s>", or {"content": "<s>", ...}
std::string_view content_of(const Json& settings, const char* key) {
  auto found = settings.find(key);
  if (found == settings.end()) return {};
  const Json* value = &*found;
  if (value->is_object() && value->contains("content")) value = &(*value)["content"];
  return value->is_string() ? std::string_view(*value->get_ptr<const std::string*>()) : std::string_view();
}

// {"151643": {"content": "<|endoftext|>", "special": true}, ...}, where nothing else has told.
Status add_tokens(const Folder& folder, const Json& settings, text::Vocabulary& v) {
  const auto list = settings.find("added_tokens_decoder");
  if (list == settings.end() || !list->is_object()) return {};
  for (const auto& [key, token] : list->items()) {
    std::size_t id = 0;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    const std::string_view text = token.is_object() ? content_of(token, "content") : std::string_view();
    if (read.ec != std::errc() || read.ptr != key.data() + key.size() || text.empty() || id > v.tokens.size() + 65'536)
      return Error{Code::corrupt, fmt::format("{}: added_tokens_decoder has a broken entry \"{}\"",
                                              folder.name("tokenizer_config.json"), key)};
    while (v.tokens.size() <= id) {
      v.tokens.push_back(fmt::format("[unused id {}]", v.tokens.size()));
      v.types.push_back(TokenType::unused);
      if (!v.scores.empty()) v.scores.push_back(0);
    }
    v.tokens[id] = text;
    TokenType& type = v.types[id];
    if (type == TokenType::normal || type == TokenType::unused)
      type = token.value("special", false) ? TokenType::control : TokenType::user_defined;
  }
  return {};
}

// The pre-tokenizer that goes without saying with an old pair of files.
Result<std::string_view> pre_of(const Folder& folder, const Json& settings) {
  const std::string_view name = content_of(settings, "tokenizer_class");
  if (name == "Qwen2Tokenizer" || name == "Qwen2TokenizerFast") return "qwen2";
  if (name == "GPT2Tokenizer" || name == "GPT2TokenizerFast" || name.starts_with("Roberta")) return "gpt-2";
  return Error{Code::unsupported,
               fmt::format("{}: vocab.json with the tokenizer_class \"{}\" is not supported; Qwen2Tokenizer and "
                           "GPT2Tokenizer are; or add tokenizer.json",
                           folder.path.string(), name)};
}

struct Words {
  text::Vocabulary vocabulary;
  bool says_specials = false;  // and what is put around a text
};

Result<Words> read_words(const Folder& folder, const Json& settings) {
  const auto model = TRY(folder.read("tokenizer.model", kMaxFile));
  if (const auto json = TRY(folder.read("tokenizer.json", kMaxFile))) {
    auto vocabulary = read_tokenizer_json(*json, folder.name("tokenizer.json"));
    if (vocabulary) {
      const bool says = vocabulary->add_bos || vocabulary->add_eos;
      return Words{std::move(*vocabulary), says};
    }
    if (!model || vocabulary.error().code != Code::unsupported) return std::move(vocabulary).error();
  }
  if (model) {
    Words words{TRY(read_sentencepiece_model(*model, folder.name("tokenizer.model")))};
    words.vocabulary.add_bos = words.vocabulary.model == "llama";
    words.vocabulary.add_eos = words.vocabulary.model == "t5";
    TRY(add_tokens(folder, settings, words.vocabulary));
    return words;
  }
  const auto vocab = TRY(folder.read("vocab.json", kMaxFile)), merges = TRY(folder.read("merges.txt", kMaxFile));
  if (!vocab || !merges)
    return Error{Code::not_found, fmt::format("{}: there is no tokenizer.json, tokenizer.model, or vocab.json with "
                                              "merges.txt",
                                              folder.path.string())};
  const std::string_view pre = TRY(pre_of(folder, settings));
  Words words{TRY(read_vocab_and_merges(*vocab, *merges, pre, folder.name("vocab.json")))};
  TRY(add_tokens(folder, settings, words.vocabulary));
  return words;
}

void set_roles(const Json& settings, bool says_specials, text::Vocabulary& v) {
  const struct {
    const char* key;
    TokenId& id;
  } roles[] = {{"bos_token", v.bos},       {"eos_token", v.eos}, {"unk_token", v.unknown}, {"pad_token", v.padding},
               {"sep_token", v.separator}, {"cls_token", v.cls}, {"mask_token", v.mask}};
  for (const auto& role : roles)
    if (const std::string_view text = content_of(settings, role.key); !text.empty())
      if (const TokenId id = find_token(v, text); id >= 0) role.id = id;
  const std::string_view name = content_of(settings, "tokenizer_class");
  // Families whose settings stand above the file's own steps.
  const bool above = name.starts_with("Llama") || name.starts_with("Gemma");
  const auto flag = [&](const char* key, bool& value) {
    const auto found = settings.find(key);
    if (found != settings.end() && found->is_boolean() && (above || !says_specials)) value = found->get<bool>();
  };
  flag("add_bos_token", v.add_bos);
  flag("add_eos_token", v.add_eos);
}

// "eos_token_id": 2, or a list of them.
void add_ends(const Json& settings, text::Vocabulary& v) {
  const auto found = settings.find("eos_token_id");
  if (found == settings.end()) return;
  const auto add = [&](const Json& id) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= v.tokens.size()) return;
    v.end_of_generation.push_back(id.get<TokenId>());
    if (v.eos < 0) v.eos = v.end_of_generation.back();
  };
  if (found->is_array())
    for (const Json& id : *found) add(id);
  else
    add(*found);
}

// A string, or a list of {"name", "template"}.
Result<ChatTemplates> read_templates(const Folder& folder, const Json& settings) {
  ChatTemplates templates;
  if (const auto found = settings.find("chat_template"); found != settings.end()) {
    if (found->is_string()) templates.source = found->get<std::string>();
    if (found->is_array())
      for (const Json& one : *found)
        if (one.is_object() && one.contains("name") && one["name"].is_string() && one.contains("template") &&
            one["template"].is_string()) {
          const auto source = one["template"].get<std::string>();
          if (one["name"] == "default")
            templates.source = source;
          else
            templates.named.emplace(one["name"].get<std::string>(), source);
        }
  }
  if (auto file = TRY(folder.read("chat_template.jinja", kMaxSettings))) templates.source = std::move(*file);
  return templates;
}

}  // namespace

Result<FolderText> read_folder_text(const std::string& path) {
  const Folder folder{path};
  const Json settings = TRY(folder.settings("tokenizer_config.json"));
  Words words = TRY(read_words(folder, settings));
  text::Vocabulary& v = words.vocabulary;
  set_roles(settings, words.says_specials, v);
  add_ends(TRY(folder.settings("generation_config.json")), v);
  find_ends(v);
  auto templates = TRY(read_templates(folder, settings));
  return FolderText{std::move(v), std::move(templates)};
}

}  // namespace ashlar::models
