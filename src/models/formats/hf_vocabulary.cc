#include "models/formats/hf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/formats/hf_words.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using text::TokenId;

constexpr std::size_t kMostTemplates = 64;

// Whether a text gets tokens around it, where the tokens' own file does not say.
void set_around(const TextSettings& settings, bool says_specials, text::Vocabulary& v) {
  // Families whose settings stand above the file's own steps.
  const bool above = settings.kind == "Llama" || settings.kind == "Gemma";
  const auto take = [&](const char* key, bool& value) {
    if (const auto found = flag_of(settings.json, key); found && (above || !says_specials)) value = *found;
  };
  take("add_bos_token", v.add_bos);
  take("add_eos_token", v.add_eos);
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

void add_template(std::string_view name, std::string_view source, ChatTemplates& templates) {
  if (name == "default")
    templates.source = source;
  else if (templates.named.size() < kMostTemplates)
    templates.named.insert_or_assign(std::string(name), std::string(source));
}

// A string, a list of {"name", "template"}, or an object of templates by name.
void add_listed(const Json& settings, ChatTemplates& templates) {
  const auto found = settings.find("chat_template");
  if (found == settings.end()) return;
  if (found->is_string()) templates.source = found->get<std::string>();
  if (found->is_array())
    for (const Json& one : *found)
      if (one.is_object() && !content_of(one, "name").empty() && one.contains("template"))
        add_template(content_of(one, "name"), content_of(one, "template"), templates);
  if (found->is_object())
    for (const auto& [name, source] : found->items())
      if (source.is_string()) add_template(name, content_of(source), templates);
}

// additional_chat_templates/NAME.jinja
Status add_files(const TextFolder& folder, ChatTemplates& templates) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.path / "additional_chat_templates", error)) {
    if (entry.path().extension() != ".jinja") continue;
    const std::string file = fmt::format("additional_chat_templates/{}", entry.path().filename().string());
    if (const auto source = TRY(folder.read(file, TextFolder::kMaxSettings)))
      add_template(entry.path().stem().string(), *source, templates);
  }
  return {};
}

Result<ChatTemplates> read_templates(const TextFolder& folder, const Json& settings) {
  ChatTemplates templates;
  add_listed(settings, templates);
  if (auto file = TRY(folder.read("chat_template.jinja", TextFolder::kMaxSettings)))
    templates.source = std::move(*file);
  TRY(add_files(folder, templates));
  if (templates.source.empty())  // of what reads pictures too, and of its texts
    add_listed(TRY(folder.settings("chat_template.json")), templates);
  return templates;
}

}  // namespace

Result<FolderText> read_folder_text(const std::string& path) {
  const TextFolder folder{path};
  const TextSettings settings = TRY(read_text_settings(folder));
  Words words = TRY(read_words(folder, settings));
  text::Vocabulary& v = words.vocabulary;
  set_roles(settings, v);
  set_around(settings, words.says_specials, v);
  add_ends(TRY(folder.settings("generation_config.json")), v);
  find_ends(v);
  auto templates = TRY(read_templates(folder, settings.json));
  return FolderText{std::move(v), std::move(templates)};
}

}  // namespace ashlar::models
