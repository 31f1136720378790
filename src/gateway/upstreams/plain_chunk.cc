#include "gateway/upstreams/plain_chunk.h"

#include <algorithm>
#include <utility>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

constexpr int kTries = 8;

// The bytes of the one text called `member` in `event`, without its quotes: offset and length.
std::optional<std::pair<std::size_t, std::size_t>> find_text(std::string_view event, std::string_view member) {
  const std::string name = '"' + std::string(member) + '"';
  std::size_t at = event.find(name);
  // Within a text a quote has a backslash before it: this is a member's name, or a text of its own.
  if (at == event.npos || event.find(name, at + 1) != event.npos) return std::nullopt;
  at += name.size();
  const auto skip = [&](char c) {
    at = event.find_first_not_of(" \t", at);
    return at != event.npos && event[at++] == c;
  };
  if (!skip(':') || !skip('"')) return std::nullopt;
  std::size_t end = at;
  while (end < event.size() && event[end] != '"') end += event[end] == '\\' ? 2 : 1;
  if (end >= event.size()) return std::nullopt;
  return std::pair(at, end - at);
}

// What a JSON text with these bytes between its quotes says; nullopt: it is none.
std::optional<std::string> unquoted(std::string_view bytes) {
  if (std::ranges::all_of(bytes, [](unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }))
    return std::string(bytes);
  auto text = parse_json('"' + std::string(bytes) + '"');
  if (!text || !text->is_string()) return std::nullopt;
  return std::move(text->get_ref<std::string&>());
}

}  // namespace

void PlainChunk::learn(std::string_view event, const Chunk& chunk) {
  if (tries_ >= kTries) return;
  ++tries_;
  if (!chunk.choice || !chunk.thought.empty() || !chunk.finish.empty() || chunk.usage) return;
  const auto text = find_text(event, chunk.in_delta ? "content" : "text");
  if (!text) return;
  before_ = event.substr(0, text->first);
  after_ = event.substr(text->first + text->second);
  choice_ = *chunk.choice;
}

std::optional<engine::Text> PlainChunk::read(std::string_view event) const {
  if (before_.empty() || event.size() < before_.size() + after_.size() || !event.starts_with(before_) ||
      !event.ends_with(after_))
    return std::nullopt;
  auto text = unquoted(event.substr(before_.size(), event.size() - before_.size() - after_.size()));
  if (!text) return std::nullopt;
  return engine::Text{.choice = choice_, .text = std::move(*text)};
}

}  // namespace ashlar::gateway
