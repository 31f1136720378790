#include "text/merge_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>

namespace ashlar::text {

TokenId MergeTable::intern_other(std::string_view text, std::size_t token_count) {
  const auto next = static_cast<TokenId>(token_count + others_.size());
  return others_.try_emplace(std::string(text), next).first->second;
}

TokenId MergeTable::find_other(std::string_view text) const {
  if (others_.empty()) return -1;
  const auto found = others_.find(std::string(text));
  return found == others_.end() ? -1 : found->second;
}

void MergeTable::insert(std::uint64_t key, Pair pair) {
  std::size_t at = place(key);
  for (; slots_[at].key != kEmpty; at = (at + 1) & mask_)
    if (slots_[at].key == key) return;  // the first is the better one
  slots_[at] = {key, pair};
}

Result<MergeTable> MergeTable::create(const std::vector<std::string>& merges, const TokenIndex<TokenTexts>& tokens,
                                      std::size_t token_count) {
  MergeTable table;
  table.seed_ = hash_seed();
  table.slots_.resize(std::bit_ceil(2 * merges.size() + 2));
  table.mask_ = table.slots_.size() - 1;
  // A cold start waits for memory here: three look-ups for each merge, all over
  // the table. So merges are taken by the block, and fetched ahead.
  struct Side {
    std::string_view text;
    std::uint64_t hash;
  };
  constexpr std::size_t kBlock = 32;
  std::array<std::string, kBlock> joined;
  std::array<Side, 3 * kBlock> sides;  // left, right, both
  for (std::size_t begin = 0; begin < merges.size(); begin += kBlock) {
    const std::size_t count = std::min(kBlock, merges.size() - begin);
    for (std::size_t i = 0; i < count; ++i) {
      const std::string_view merge = merges[begin + i];
      const std::size_t space = merge.find(' ', 1);
      if (space == std::string_view::npos || space + 1 == merge.size())
        return Error{Code::corrupt,
                     fmt::format("the vocabulary's merge {} is not two strings with a space between", begin + i)};
      const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
      joined[i].assign(left).append(right);
      std::size_t side = 3 * i;
      for (const std::string_view text : {left, right, std::string_view(joined[i])}) {
        sides[side] = {text, tokens.hash(text)};
        tokens.prefetch(sides[side++].hash);
      }
    }
    for (const Side& side : std::span(sides).first(3 * count)) tokens.prefetch_text(side.hash);
    std::array<TokenId, 3 * kBlock> ids;
    for (std::size_t i = 0; i < 3 * count; ++i) {
      ids[i] = tokens.find(sides[i].text, sides[i].hash);
      if (ids[i] < 0) ids[i] = table.intern_other(sides[i].text, token_count);
    }
    for (std::size_t i = 0; i < count; ++i)
      __builtin_prefetch(&table.slots_[table.place(key_of(ids[3 * i], ids[3 * i + 1]))]);
    for (std::size_t i = 0; i < count; ++i)
      table.insert(key_of(ids[3 * i], ids[3 * i + 1]), {static_cast<std::uint32_t>(begin + i), ids[3 * i + 2]});
  }
  return table;
}

}  // namespace ashlar::text
