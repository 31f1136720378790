#include "engine/prefix_marks.h"

#include <algorithm>

#include "engine/prefixes.h"
#include "models/model.h"

namespace ashlar::engine {
namespace {

// So much of a text is looked for; the rest must follow. A template that a client sent cannot make it slow.
constexpr std::size_t kNeedle = 64;

// A text of the prompt, as text_of() has it and as the template wrote it.
struct Stretch {
  std::size_t at = 0, size = 0;  // of text_of()
  std::size_t rendered = 0;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::size_t find(std::string_view rendered, std::string_view text, std::size_t from) {
  const std::size_t at = rendered.find(text.substr(0, kNeedle), from);
  return at != rendered.npos && rendered.substr(at).starts_with(text) ? at : rendered.npos;
}

std::vector<Stretch> stretches(const Prompt& prompt, std::string_view rendered) {
  std::vector<Stretch> out;
  std::size_t at = 0, cursor = 0;
  bool lost = false;
  visit_texts(prompt, [&](std::string_view role, std::string_view text) {
    at += role.size() + 1;
    const std::size_t begin = at;
    at += text.size() + 1;
    if (lost || begin >= kPrefixBytes * kMostPrefixes) return;
    for (const std::string_view shown : {text, trimmed(text)}) {
      const std::size_t found = shown.empty() ? cursor : find(rendered, shown, cursor);
      if (found == rendered.npos) continue;
      const auto skipped = shown.empty() ? 0 : static_cast<std::size_t>(shown.data() - text.data());
      out.push_back({.at = begin + skipped, .size = shown.size(), .rendered = found});
      cursor = found + shown.size();
      return;
    }
    lost = true;
  });
  return out;
}

}  // namespace

std::vector<PrefixMark> prefix_marks(const Prompt& prompt, std::uint64_t salt, std::string_view rendered,
                                     std::span<const std::int32_t> ids, const text::Tokenizer& tokenizer) {
  const std::vector<std::uint64_t> keys = prefix_keys(prompt, salt);
  const bool plain = std::holds_alternative<std::vector<std::int32_t>>(prompt.input);
  if (plain) rendered = {reinterpret_cast<const char*>(ids.data()), ids.size_bytes()};
  const auto size_of = [&](std::int32_t id) {
    return plain ? sizeof id : tokenizer.piece(id, /*special=*/true).size();
  };
  // Tokenizers that write a space of their own, or a token before all, have more bytes than the text.
  std::size_t bytes = 0;
  for (const std::int32_t id : ids) bytes += size_of(id);
  const double scale =
      rendered.empty() ? 0 : static_cast<double>(bytes) / static_cast<double>(rendered.size());

  std::vector<PrefixMark> marks;
  const std::vector<Stretch> shown = stretches(prompt, rendered);
  std::size_t stretch = 0, token = 0, passed = 0;  // `token` tokens have `passed` bytes
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::size_t end = (i + 1) * kPrefixBytes;
    while (stretch + 1 < shown.size() && shown[stretch + 1].at < end) ++stretch;
    if (shown.empty() || shown[stretch].at >= end) continue;
    const std::size_t within = std::min(end - shown[stretch].at, shown[stretch].size);
    // The last text that is shown, and what comes after it is not: of that nothing is known.
    if (stretch + 1 == shown.size() && end > shown[stretch].at + shown[stretch].size) break;
    const auto most = static_cast<std::size_t>(static_cast<double>(shown[stretch].rendered + within) * scale + 0.5);
    while (token < ids.size() && passed + size_of(ids[token]) <= most) passed += size_of(ids[token++]);
    const int tokens = static_cast<int>(token) / models::kBlockTokens * models::kBlockTokens;
    if (tokens == 0) continue;
    if (!marks.empty() && marks.back().tokens == tokens)
      marks.back().key = keys[i];
    else
      marks.push_back({keys[i], tokens});
  }
  return marks;
}

}  // namespace ashlar::engine
