#include "gateway/routing/prompt_text.h"

#include <algorithm>
#include <functional>
#include <string_view>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

// Bytes of a message that are looked at one by one; the rest is taken to be like them.
constexpr std::size_t kCounted = 64 << 10;

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

void visit_texts(const engine::Prompt& prompt, const Visit& visit) {
  if (const auto* text = std::get_if<std::string>(&prompt.input)) return visit("user", *text);
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input))
    return visit("user", {reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(std::int32_t)});
  const auto& chat = std::get<engine::Chat>(prompt.input);
  if (!chat.messages || !chat.messages->is_array()) return;
  for (const Json& message : *chat.messages) {
    if (!message.is_object()) continue;
    const auto role = message.find("role");
    const auto content = message.find("content");
    if (role == message.end() || !role->is_string() || content == message.end()) continue;
    visit_content(role->get_ref<const std::string&>(), *content, visit);
  }
}

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

std::string text_of(const engine::Prompt& prompt, std::size_t most) {
  std::string out;
  visit_texts(prompt, [&](std::string_view role, std::string_view text) {
    if (out.size() >= most) return;
    out.append(role).push_back('\n');
    out.append(text.substr(0, most)).push_back('\n');
  });
  if (out.size() > most) out.resize(most);
  return out;
}

std::string first_words(const engine::Prompt& prompt, std::size_t characters) {
  std::string out;
  bool found = false;
  visit_texts(prompt, [&](std::string_view role, std::string_view text) {
    if (found || role != "user") return;
    found = true;
    std::size_t end = 0;
    for (std::size_t seen = 0; end < text.size(); ++end)
      if (!continues(text[end]) && seen++ == characters) break;
    out = text.substr(0, end);
  });
  return out;
}

std::string question_of(const engine::Prompt& prompt, std::size_t most) {
  std::string out;
  visit_texts(prompt, [&](std::string_view role, std::string_view text) {
    if (role == "user") out = text.substr(0, most);
  });
  return out;
}

int estimated_tokens(const engine::Prompt& prompt) {
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input)) return static_cast<int>(ids->size());
  double tokens = 0;
  visit_texts(prompt, [&](std::string_view, std::string_view text) {
    const std::string_view seen = text.substr(0, kCounted);
    std::size_t plain = 0, wide = 0;
    for (const char byte : seen) {
      plain += static_cast<signed char>(byte) >= 0 ? 1 : 0;
      wide += static_cast<signed char>(byte) < 0 && !continues(byte) ? 1 : 0;
    }
    const double whole = seen.empty() ? 1 : static_cast<double>(text.size()) / static_cast<double>(seen.size());
    tokens += 4 + (static_cast<double>(plain) / 4 + static_cast<double>(wide) * 2 / 3) * whole;
  });
  return static_cast<int>(std::min(tokens, 1e9));
}

}  // namespace ashlar::gateway
