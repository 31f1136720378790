#include "text/prefix_matcher.h"

#include <algorithm>

namespace ashlar::text {
namespace {
std::size_t two_bytes(char first, char second) {
  return (std::size_t{static_cast<unsigned char>(first)} << 8) | static_cast<unsigned char>(second);
}
}  // namespace

PrefixMatcher::PrefixMatcher(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::ranges::sort(entries_, {}, &Entry::text);
  for (const Entry& entry : entries_) {
    ++first_[static_cast<unsigned char>(entry.text[0]) + std::size_t{1}];
    if (entry.text.size() > 1) beginnings_.set(two_bytes(entry.text[0], entry.text[1]));
    else
      for (int second = 0; second < 256; ++second)
        beginnings_.set(two_bytes(entry.text[0], static_cast<char>(second)));
  }
  for (std::size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
}

bool PrefixMatcher::narrow(std::uint32_t& first, std::uint32_t& last, std::size_t depth, unsigned char byte) const {
  const auto at = [&](const Entry& entry) { return static_cast<unsigned char>(entry.text[depth]); };
  const auto range = std::ranges::equal_range(entries_.begin() + first, entries_.begin() + last, byte, {}, at);
  first = static_cast<std::uint32_t>(range.begin() - entries_.begin());
  last = static_cast<std::uint32_t>(range.end() - entries_.begin());
  return first < last;
}

PrefixMatcher::Match PrefixMatcher::longest(std::string_view text) const {
  Match best;
  each(text, [&](TokenId id, std::size_t length) { best = {id, length}; });
  return best;
}

std::size_t PrefixMatcher::candidate(std::string_view text, std::size_t from) const {
  for (; from + 1 < text.size(); ++from)
    if (beginnings_[two_bytes(text[from], text[from + 1])]) return from;
  if (from < text.size() && start(text[from]).first < start(text[from]).second) return from;
  return text.size();
}

}  // namespace ashlar::text
