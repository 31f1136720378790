#include "text/prefix_matcher.h"

#include <algorithm>

namespace ashlar::text {
namespace {
std::size_t two_bytes(char first, char second) {
  return (std::size_t{static_cast<unsigned char>(first)} << 8) | static_cast<unsigned char>(second);
}
}  // namespace

struct PrefixMatcher::Range {
  std::size_t first, last, depth;
  std::uint32_t node;
};

PrefixMatcher::PrefixMatcher(std::vector<Entry> entries) {
  if (entries.empty()) return;
  std::ranges::sort(entries, {}, &Entry::text);
  nodes_.reserve(entries.size() * 3);
  nodes_.resize(1);
  // Breadth first, so that the children of a node are made one after the other.
  std::vector<Range> ranges{{0, entries.size(), 0, 0}};
  for (std::size_t next = 0; next < ranges.size(); ++next) {
    auto [first, last, depth, node] = ranges[next];
    const auto byte_of = [&](std::size_t entry) { return static_cast<unsigned char>(entries[entry].text[depth]); };
    if (entries[first].text.size() == depth) nodes_[node].id = entries[first++].id;
    nodes_[node].children = static_cast<std::uint32_t>(nodes_.size());
    while (first < last) {
      std::size_t end = first + 1;
      while (end < last && byte_of(end) == byte_of(first)) ++end;
      ranges.push_back({first, end, depth + 1, static_cast<std::uint32_t>(nodes_.size())});
      if (depth == 0) roots_[byte_of(first)] = static_cast<std::uint32_t>(nodes_.size());
      nodes_.push_back({.byte = byte_of(first)});
      ++nodes_[node].count;
      first = end;
    }
  }
  for (const Entry& entry : entries) {
    if (entry.text.size() > 1) {
      beginnings_.set(two_bytes(entry.text[0], entry.text[1]));
      continue;
    }
    for (int second = 0; second < 256; ++second) beginnings_.set(two_bytes(entry.text[0], static_cast<char>(second)));
  }
}

std::size_t PrefixMatcher::candidate(std::string_view text, std::size_t from) const {
  for (; from + 1 < text.size(); ++from)
    if (beginnings_[two_bytes(text[from], text[from + 1])]) return from;
  if (from < text.size() && roots_[static_cast<unsigned char>(text[from])] != kNone) return from;
  return text.size();
}

}  // namespace ashlar::text
