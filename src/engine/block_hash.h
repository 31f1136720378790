// A keyed 128-bit hash for the prefix cache: SipHash-2-4 with 128 bits of output
// (Aumasson and Bernstein, 2012). Keyed at random for each cache, so that nobody
// outside can make two prompts meet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ashlar::engine {

struct BlockHash {
  std::uint64_t low = 0, high = 0;
  bool operator==(const BlockHash&) const = default;
};

struct HashKey {
  std::uint64_t low = 0, high = 0;
  static HashKey random();
};

BlockHash siphash(const HashKey& key, std::span<const std::byte> data);

}  // namespace ashlar::engine
