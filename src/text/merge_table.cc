#include "text/merge_table.h"

#include <fmt/format.h>

#include <bit>

namespace ashlar::text {

TokenId MergeTable::intern(std::string_view text, const Tokenizer& tokenizer) {
  if (const TokenId id = tokenizer.find(text); id >= 0) return id;
  const auto next = static_cast<TokenId>(tokenizer.vocabulary().tokens.size() + others_.size());
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

Result<MergeTable> MergeTable::create(const std::vector<std::string>& merges, const Tokenizer& tokenizer) {
  MergeTable table;
  table.seed_ = hash_seed();
  table.slots_.resize(std::bit_ceil(2 * merges.size() + 2));
  table.mask_ = table.slots_.size() - 1;
  std::string joined;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size())
      return Error{Code::corrupt, fmt::format("the vocabulary's merge {} is not two strings with a space between", i)};
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    joined.assign(left).append(right);
    const Pair pair{static_cast<std::uint32_t>(i), table.intern(joined, tokenizer)};
    table.insert(key_of(table.intern(left, tokenizer), table.intern(right, tokenizer)), pair);
  }
  return table;
}

}  // namespace ashlar::text
