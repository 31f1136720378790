#include "gateway/routing/prefix_index.h"

#include <algorithm>

#include "gateway/routing/ring.h"

namespace ashlar::gateway {

std::vector<std::uint64_t> prefix_blocks(std::string_view text, std::uint64_t salt, std::size_t block,
                                         std::size_t most) {
  std::vector<std::uint64_t> keys;
  if (block == 0) return keys;
  keys.reserve(std::min(most, text.size() / block));
  for (std::uint64_t key = salt; text.size() >= block && keys.size() < most; text.remove_prefix(block)) {
    key = stable_hash(text.substr(0, block), key);
    keys.push_back(key);
  }
  return keys;
}

std::size_t PrefixIndex::match(std::span<const std::uint64_t> blocks) const {
  std::size_t found = 0;
  while (found < blocks.size() && index_.contains(blocks[found])) ++found;
  return found;
}

void PrefixIndex::stored(std::uint64_t block) {
  if (most_ == 0) return;
  if (const auto found = index_.find(block); found != index_.end()) {
    order_.splice(order_.end(), order_, found->second);
    return;
  }
  if (order_.size() >= most_) evicted(order_.front());
  order_.push_back(block);
  index_[block] = std::prev(order_.end());
}

// The last block first, so that a chain loses its end before its beginning.
void PrefixIndex::sent(std::span<const std::uint64_t> blocks) {
  for (std::size_t i = std::min(blocks.size(), most_); i-- > 0;) stored(blocks[i]);
}

void PrefixIndex::evicted(std::uint64_t block) {
  const auto found = index_.find(block);
  if (found == index_.end()) return;
  order_.erase(found->second);
  index_.erase(found);
}

void PrefixIndex::clear() {
  order_.clear();
  index_.clear();
}

}  // namespace ashlar::gateway
