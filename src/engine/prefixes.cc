#include "engine/prefixes.h"

#include <algorithm>

#include "base/json_full.h"
#include "base/stable_hash.h"

namespace ashlar::engine {
namespace {

using Visit = std::function<void(std::string_view role, std::string_view text)>;

void visit_content(std::string_view role, const Json& content, const Visit& visit) {
  if (content.is_string()) return visit(role, content.get_ref<const std::string&>());
  if (!content.is_array()) return;
  for (const Json& part : content) {
    if (!part.is_object()) continue;
    if (const auto text = part.find("text"); text != part.end() && text->is_string())
      visit(role, text->get_ref<const std::string&>());
  }
}

}  // namespace

void visit_texts(const Prompt& prompt, const Visit& visit) {
  if (const auto* text = std::get_if<std::string>(&prompt.input)) return visit("user", *text);
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input))
    return visit("user", {reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(std::int32_t)});
  const auto& chat = std::get<Chat>(prompt.input);
  if (!chat.messages || !chat.messages->is_array()) return;
  for (const Json& message : *chat.messages) {
    if (!message.is_object()) continue;
    const auto role = message.find("role");
    const auto content = message.find("content");
    if (role == message.end() || !role->is_string() || content == message.end()) continue;
    visit_content(role->get_ref<const std::string&>(), *content, visit);
  }
}

std::string text_of(const Prompt& prompt, std::size_t most) {
  std::string out;
  visit_texts(prompt, [&](std::string_view role, std::string_view text) {
    if (out.size() >= most) return;
    out.append(role.substr(0, most)).push_back('\n');
    out.append(text.substr(0, most)).push_back('\n');
  });
  if (out.size() > most) out.resize(most);
  return out;
}

std::vector<std::uint64_t> prefix_keys(std::string_view text, std::uint64_t salt) {
  std::vector<std::uint64_t> keys;
  keys.reserve(std::min(kMostPrefixes, text.size() / kPrefixBytes));
  for (std::uint64_t key = salt; text.size() >= kPrefixBytes && keys.size() < kMostPrefixes;
       text.remove_prefix(kPrefixBytes)) {
    key = stable_hash(text.substr(0, kPrefixBytes), key);
    keys.push_back(key);
  }
  return keys;
}

std::vector<std::uint64_t> prefix_keys(const Prompt& prompt, std::uint64_t salt) {
  return prefix_keys(text_of(prompt, kPrefixBytes * kMostPrefixes), salt);
}

}  // namespace ashlar::engine
