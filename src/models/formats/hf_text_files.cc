#include "models/formats/hf_text_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/mapped_file.h"
#include "models/formats/token_list.h"

namespace ashlar::models {
namespace {

using text::TokenId;
using text::TokenType;

// What a class's tokens are called where nothing says otherwise.
struct Kind {
  std::string_view name;
  std::vector<std::string_view> model_types;
  std::string_view bos, eos, unknown, padding, separator, cls, mask;
};
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> kKinds = {
      {"Bert", {"bert", "nomic_bert"}, "", "", "[UNK]", "[PAD]", "[SEP]", "[CLS]", "[MASK]"},
      {"Roberta", {"roberta"}, "<s>", "</s>", "<unk>", "<pad>", "</s>", "<s>", "<mask>"},
      {"XLMRoberta", {"xlm-roberta"}, "<s>", "</s>", "<unk>", "<pad>", "</s>", "<s>", "<mask>"},
      {"Camembert", {"camembert"}, "<s>", "</s>", "<unk>", "<pad>", "</s>", "<s>", "<mask>"},
      {"GPT2", {}, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""},
      {"Qwen2", {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}, "", "<|endoftext|>", "", "<|endoftext|>", "", "", ""},
  };
  return kKinds;
}

constexpr std::string_view kRoles[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                       "sep_token", "cls_token", "mask_token"};

// "BertTokenizerFast" -> "Bert"
std::string kind_of(std::string_view class_name, std::string_view model_type) {
  const std::size_t end = class_name.find("Tokenizer");
  if (end != std::string_view::npos && !class_name.starts_with("PreTrained") && end > 0)
    return std::string(class_name.starts_with("DistilBert") ? "Bert"
                                                            : class_name.substr(0, end));  // the same but in name
  for (const Kind& kind : kinds())
    if (std::ranges::find(kind.model_types, model_type) != kind.model_types.end()) return std::string(kind.name);
  return {};
}

void fill_in(Json& settings, const Kind& kind) {
  const std::string_view tokens[] = {kind.bos,       kind.eos, kind.unknown, kind.padding,
                                     kind.separator, kind.cls, kind.mask};
  for (std::size_t i = 0; i < std::size(kRoles); ++i)
    if (!tokens[i].empty() && !settings.contains(kRoles[i])) settings[std::string(kRoles[i])] = tokens[i];
}

struct Added {
  std::size_t id;
  std::string text;
  bool special;
};

Result<std::vector<Added>> listed_tokens(const TextFolder& folder, const TextSettings& settings) {
  std::vector<Added> out;
  const auto list = settings.json.find("added_tokens_decoder");
  if (list != settings.json.end() && list->is_object()) {
    for (const auto& [key, token] : list->items()) {
      std::size_t id = 0;
      const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
      const std::string_view text = token.is_object() ? content_of(token) : std::string_view();
      if (read.ec != std::errc() || read.ptr != key.data() + key.size() || text.empty())
        return Error{Code::corrupt, fmt::format("{}: added_tokens_decoder has a broken entry \"{}\"",
                                                folder.name("tokenizer_config.json"), key)};
      out.push_back({id, std::string(text), flag_of(token, "special").value_or(false)});
    }
    return out;
  }
  const Json older = TRY(folder.settings("added_tokens.json"));
  for (const auto& [text, id] : older.items()) {
    if (text.empty() || !id.is_number_unsigned())
      return Error{Code::corrupt,
                   fmt::format("{}: the id of \"{}\" is not a whole number", folder.name("added_tokens.json"), text)};
    out.push_back({id.get<std::size_t>(), text, settings.specials.contains(text)});
  }
  return out;
}

}  // namespace

Result<std::optional<std::string>> TextFolder::read(std::string_view file, std::size_t most) const {
  std::error_code error;
  if (!std::filesystem::exists(path / file, error)) return std::nullopt;
  const MappedFile mapped = TRY(MappedFile::open(name(file)));
  if (mapped.bytes().size() > most)
    return Error{Code::too_large,
                 fmt::format("{}: {} bytes; at most {} are expected", name(file), mapped.bytes().size(), most)};
  return std::string(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
}

Result<Json> TextFolder::settings(std::string_view file) const {
  const auto text = TRY(read(file, kMaxSettings));
  if (!text) return Json::object();
  auto json = parse_json(*text, {.depth = 32, .members = 16'384});
  if (!json || !json->is_object())
    return Error{Code::corrupt,
                 fmt::format("{}: not a JSON object{}", name(file), json ? "" : ": " + json.error().message)};
  return std::move(*json);
}

std::string_view content_of(const Json& token) {
  if (token.is_object()) return content_of(token, "content");
  return token.is_string() ? std::string_view(*token.get_ptr<const std::string*>()) : std::string_view();
}

std::string_view content_of(const Json& settings, std::string_view key) {
  const auto found = settings.find(key);
  if (found == settings.end()) return {};
  const Json& value = *found;
  const auto inner = value.is_object() ? value.find("content") : value.end();
  const Json& text = value.is_object() && inner != value.end() ? *inner : value;
  return text.is_string() ? std::string_view(*text.get_ptr<const std::string*>()) : std::string_view();
}

std::optional<bool> flag_of(const Json& settings, std::string_view key) {
  const auto found = settings.find(key);
  return found != settings.end() && found->is_boolean() ? std::optional(found->get<bool>()) : std::nullopt;
}

Result<TextSettings> read_text_settings(const TextFolder& folder) {
  TextSettings out{.json = TRY(folder.settings("tokenizer_config.json")), .kind = {}, .specials = {}};
  const Json older = TRY(folder.settings("special_tokens_map.json"));
  for (const auto& [name, value] : older.items())
    if (!out.json.contains(name)) out.json[name] = value;
  const Json model = TRY(folder.settings("config.json"));
  out.kind = kind_of(content_of(out.json, "tokenizer_class"), content_of(model, "model_type"));
  const auto kind = std::ranges::find(kinds(), out.kind, &Kind::name);
  if (kind != kinds().end()) fill_in(out.json, *kind);
  for (const std::string_view role : kRoles)
    if (const std::string_view token = content_of(out.json, role); !token.empty()) out.specials.emplace(token);
  for (const char* more : {"additional_special_tokens", "extra_special_tokens"})
    if (const auto list = out.json.find(more); list != out.json.end() && list->is_structured())
      for (const Json& one : *list)
        if (const std::string_view token = content_of(one); !token.empty()) out.specials.emplace(token);
  return out;
}

void set_roles(const TextSettings& settings, text::Vocabulary& v) {
  const struct {
    std::string_view key;
    TokenId& id;
  } roles[] = {{"bos_token", v.bos},       {"eos_token", v.eos}, {"unk_token", v.unknown}, {"pad_token", v.padding},
               {"sep_token", v.separator}, {"cls_token", v.cls}, {"mask_token", v.mask}};
  for (const auto& role : roles)
    if (const TokenId id = find_token(v, content_of(settings.json, role.key)); id >= 0) role.id = id;
}

Status add_tokens(const TextFolder& folder, const TextSettings& settings, bool complete, text::Vocabulary& v) {
  const std::vector<Added> list = TRY(listed_tokens(folder, settings));
  const std::size_t most = v.tokens.size() + 65'536;
  for (const Added& token : list) {
    if (token.id > most)
      return Error{Code::corrupt, fmt::format("{}: the added token \"{}\" has the id {} behind {} tokens",
                                              folder.path.string(), token.text, token.id, v.tokens.size())};
    const bool taken = token.id < v.tokens.size() && v.types[token.id] != TokenType::unused;
    if (complete && taken && v.tokens[token.id] != token.text) continue;
    while (v.tokens.size() <= token.id) {
      v.tokens.push_back(fmt::format("[unused id {}]", v.tokens.size()));
      v.types.push_back(TokenType::unused);
      if (!v.scores.empty()) v.scores.push_back(0);
    }
    v.tokens[token.id] = token.text;
    TokenType& type = v.types[token.id];
    if (type == TokenType::normal || type == TokenType::unused)
      type = token.special ? TokenType::control : TokenType::user_defined;
  }
  if (complete) return {};
  for (std::size_t i = 0; i < v.tokens.size(); ++i)
    if (v.types[i] == TokenType::normal && settings.specials.contains(v.tokens[i])) v.types[i] = TokenType::control;
  return {};
}

}  // namespace ashlar::models
