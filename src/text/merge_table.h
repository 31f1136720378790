// The merges that a BPE vocabulary lists, by the ids of the two sides.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "text/merge.h"
#include "text/token_index.h"
#include "text/tokenizer.h"

namespace ashlar::text {

class MergeTable {
 public:
  // `merges` are "left right", best first. A string that is no token still takes
  // part, under an id from `token_count` on. corrupt: a merge is not two strings.
  static Result<MergeTable> create(const std::vector<std::string>& merges, const TokenIndex<TokenTexts>& tokens,
                                   std::size_t token_count);

  // kNever: the two are not merged.
  Pair find(TokenId left, TokenId right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = place(key); slots_[at].key != kEmpty; at = (at + 1) & mask_)
      if (slots_[at].key == key) return slots_[at].pair;
    return {};
  }

  // The id under which `text`, which is no token, takes part in merges; -1: in none.
  TokenId find_other(std::string_view text) const;

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kEmpty;
    Pair pair;
  };
  static std::uint64_t key_of(TokenId left, TokenId right) {
    return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
  }
  std::size_t place(std::uint64_t key) const { return detail::mix(key ^ seed_, 0x9E3779B97F4A7C15u) & mask_; }
  TokenId intern_other(std::string_view text, std::size_t token_count);
  void insert(std::uint64_t key, Pair pair);

  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  std::uint64_t seed_ = 0;
  std::unordered_map<std::string, TokenId> others_;
};

}  // namespace ashlar::text
