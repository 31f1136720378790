// Which of many strings begin a text.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace ashlar::text {

// A trie as a sorted list: a node is the range of strings that share a prefix.
// Building it is a sort; a step down is a binary search within the range. The
// strings belong to somebody who outlives it.
class PrefixMatcher {
 public:
  struct Entry {
    std::string_view text;  // not empty
    TokenId id;
  };
  struct Match {
    TokenId id = -1;
    std::size_t length = 0;
  };

  PrefixMatcher() = default;
  explicit PrefixMatcher(std::vector<Entry> entries);

  bool empty() const { return entries_.empty(); }

  // The longest entry that `text` begins with; id -1: none.
  Match longest(std::string_view text) const;

  // Calls found(id, length) for every entry that `text` begins with, shortest first.
  template <class Found>
  void each(std::string_view text, Found&& found) const {
    if (text.empty()) return;
    auto [first, last] = start(text[0]);
    for (std::size_t depth = 1; first < last; ++depth) {
      if (entries_[first].text.size() == depth) found(entries_[first].id, depth), ++first;
      if (depth == text.size() || !narrow(first, last, depth, static_cast<unsigned char>(text[depth]))) return;
    }
  }

  // The first position at or after `from` where an entry may begin; text.size(): none.
  std::size_t candidate(std::string_view text, std::size_t from) const;

 private:
  std::pair<std::uint32_t, std::uint32_t> start(char byte) const {
    const auto at = static_cast<unsigned char>(byte);
    return {first_[at], first_[at + 1]};
  }
  // To those entries whose byte at `depth` is `byte`; all have one there.
  bool narrow(std::uint32_t& first, std::uint32_t& last, std::size_t depth, unsigned char byte) const;

  std::vector<Entry> entries_;
  std::array<std::uint32_t, 257> first_{};  // by first byte
  std::bitset<65536> beginnings_;           // by the first two bytes
};

}  // namespace ashlar::text
