#include "gateway/routing/prompt_text.h"

#include <algorithm>
#include <string_view>

#include "base/json_full.h"
#include "base/stable_hash.h"
#include "engine/prefixes.h"

namespace ashlar::gateway {
namespace {

// Bytes of a message that are looked at one by one; the rest is taken to be like them.
constexpr std::size_t kCounted = 64 << 10;

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

std::uint64_t prefix_salt(const engine::Request& request, std::string_view adapter) {
  if (request.prefix_salt) return *request.prefix_salt;
  std::uint64_t salt = stable_hash(request.tenant);
  for (const std::string_view each : {std::string_view(request.cache_salt), adapter}) salt = stable_hash(each, salt);
  if (const auto* chat = std::get_if<engine::Chat>(&request.prompt.input)) {
    salt = stable_hash(chat->chat_template, stable_hash("chat", salt));
    for (const auto& each : {chat->tools, chat->template_kwargs})
      if (each != nullptr && !each->empty()) salt = stable_hash(dump_json(*each), salt);
  }
  return salt;
}

std::string first_words(const engine::Prompt& prompt, std::size_t characters) {
  std::string out;
  bool found = false;
  engine::visit_texts(prompt, [&](std::string_view role, std::string_view text) {
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
  engine::visit_texts(prompt, [&](std::string_view role, std::string_view text) {
    if (role == "user") out = text.substr(0, most);
  });
  return out;
}

int estimated_tokens(const engine::Prompt& prompt) {
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt.input)) return static_cast<int>(ids->size());
  double tokens = 0;
  engine::visit_texts(prompt, [&](std::string_view, std::string_view text) {
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
