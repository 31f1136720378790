// Which deployment has which beginning of a prompt in its KV cache. Blocks are known by chained keys: a block's key
// says everything before it too.
//
// Told by those who know (an engine that stores and evicts a block: stored(), evicted()) it is exact. Else it is
// guessed: what was sent there is there (sent()), and the block used longest ago went when the room was full.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ashlar::gateway {

// Keys of the blocks of a text: `block` bytes each, a last part that is shorter has none; at most `most` of them.
std::vector<std::uint64_t> prefix_blocks(std::string_view text, std::uint64_t salt, std::size_t block,
                                         std::size_t most);

// One deployment's blocks. Not thread-safe.
class PrefixIndex {
 public:
  explicit PrefixIndex(std::size_t most_blocks) : most_(most_blocks) {}

  // How many of the leading blocks are there.
  std::size_t match(std::span<const std::uint64_t> blocks) const;
  void sent(std::span<const std::uint64_t> blocks);
  void stored(std::uint64_t block);
  void evicted(std::uint64_t block);
  void clear();
  std::size_t size() const { return order_.size(); }

 private:
  std::size_t most_;
  std::list<std::uint64_t> order_;  // the one used longest ago first
  std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> index_;
};

}  // namespace ashlar::gateway
