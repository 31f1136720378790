// What a word was encoded to, for the words that come again within one text. A
// fixed number of places, one cache line each; a newcomer takes its place from
// whoever holds it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace ashlar::text {

class WordCache {
 public:
  // As large as a text of so many bytes can make use of.
  explicit WordCache(std::size_t text_bytes)
      : entries_(std::bit_ceil(std::clamp<std::size_t>(text_bytes / 32, 16, std::size_t{1} << 15))) {}

  // Appends what `word` was encoded to; false: it is not here.
  bool append(std::string_view word, std::uint64_t hash, std::vector<TokenId>& ids) const {
    const Entry& entry = entries_[place(hash)];
    if (entry.bytes != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) return false;
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
    return true;
  }

  // Words and results that are too long are not kept.
  void put(std::string_view word, std::uint64_t hash, std::span<const TokenId> ids) {
    if (word.size() > sizeof Entry::word || ids.size() > kIds) return;
    Entry& entry = entries_[place(hash)];
    entry.bytes = static_cast<std::uint8_t>(word.size());
    entry.count = static_cast<std::uint8_t>(ids.size());
    std::memcpy(entry.word, word.data(), word.size());
    std::ranges::copy(ids, entry.ids);
  }

 private:
  static constexpr std::size_t kIds = 8;
  struct alignas(64) Entry {
    TokenId ids[kIds];
    char word[30];
    std::uint8_t bytes = 0;  // 0: nobody
    std::uint8_t count = 0;
  };
  static_assert(sizeof(Entry) == 64);
  std::size_t place(std::uint64_t hash) const { return (hash >> 20) & (entries_.size() - 1); }

  std::vector<Entry> entries_;
};

}  // namespace ashlar::text
