// Which of many strings begin a text.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace ashlar::text {

// A trie, one node for each byte of a shared prefix; the children of a node lie
// side by side.
class PrefixMatcher {
 public:
  struct Entry {
    std::string_view text;  // not empty; no two are equal
    TokenId id;
  };
  struct Match {
    TokenId id = -1;
    std::size_t length = 0;
  };

  PrefixMatcher() = default;
  explicit PrefixMatcher(std::vector<Entry> entries);

  bool empty() const { return nodes_.empty(); }

  // The longest entry that `text` begins with; id -1: none.
  Match longest(std::string_view text) const {
    Match best;
    each(text, [&](TokenId id, std::size_t length) { best = {id, length}; });
    return best;
  }

  // Calls found(id, length) for every entry that `text` begins with, shortest first.
  template <class Found>
  void each(std::string_view text, Found&& found) const {
    if (text.empty()) return;
    std::uint32_t node = roots_[static_cast<unsigned char>(text[0])];
    for (std::size_t length = 1; node != kNone; ++length) {
      if (nodes_[node].id >= 0) found(nodes_[node].id, length);
      if (length == text.size()) return;
      node = child(nodes_[node], static_cast<unsigned char>(text[length]));
    }
  }

  // The first position at or after `from` where an entry may begin; text.size(): none.
  std::size_t candidate(std::string_view text, std::size_t from) const;

 private:
  static constexpr std::uint32_t kNone = 0;  // no node: the first one is never used
  struct Node {
    std::uint32_t children = 0;  // where they begin, by rising byte
    std::uint16_t count = 0;
    std::uint8_t byte = 0;
    TokenId id = -1;  // of the entry that ends here
  };
  struct Range;  // of entries that share a prefix, while the trie is built

  std::uint32_t child(const Node& node, unsigned char byte) const {
    const Node* first = nodes_.data() + node.children;
    std::uint32_t count = node.count;
    while (count > 8) {  // halve, then look at each
      const std::uint32_t half = count / 2;
      if (first[half].byte <= byte)
        first += half, count -= half;
      else
        count = half;
    }
    for (; count > 0; ++first, --count)
      if (first->byte == byte) return static_cast<std::uint32_t>(first - nodes_.data());
    return kNone;
  }

  std::vector<Node> nodes_;
  std::array<std::uint32_t, 256> roots_{};  // by first byte
  std::bitset<65536> beginnings_;           // by the first two bytes
};

}  // namespace ashlar::text
