#include "gateway/routing/prefix_index.h"

#include <algorithm>
#include <iterator>

namespace ashlar::gateway {

std::size_t PrefixIndex::match(std::span<const std::uint64_t> keys, TimePoint since) const {
  std::size_t matched = 0;
  for (; matched < keys.size(); ++matched) {
    const auto found = index_.find(keys[matched]);
    if (found == index_.end() || found->second->second < since) break;
  }
  return matched;
}

// The last key first, so that a chain loses its end before its beginning.
void PrefixIndex::sent(std::span<const std::uint64_t> keys, TimePoint now) {
  for (std::size_t i = std::min(keys.size(), most_); i-- > 0;) send(keys[i], now);
}

void PrefixIndex::send(std::uint64_t key, TimePoint now) {
  if (const auto found = index_.find(key); found != index_.end()) {
    found->second->second = now;
    order_.splice(order_.end(), order_, found->second);
    return;
  }
  if (order_.size() >= most_) {
    index_.erase(order_.front().first);
    order_.pop_front();
  }
  order_.emplace_back(key, now);
  index_[key] = std::prev(order_.end());
}

}  // namespace ashlar::gateway
