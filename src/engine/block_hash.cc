#include "engine/block_hash.h"

#include <bit>
#include <cstring>
#include <random>

namespace ashlar::engine {
namespace {

struct State {
  std::uint64_t v0, v1, v2, v3;

  void rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0 += v1, v1 = std::rotl(v1, 13) ^ v0, v0 = std::rotl(v0, 32);
      v2 += v3, v3 = std::rotl(v3, 16) ^ v2;
      v0 += v3, v3 = std::rotl(v3, 21) ^ v0;
      v2 += v1, v1 = std::rotl(v1, 17) ^ v2, v2 = std::rotl(v2, 32);
    }
  }

  void absorb(std::uint64_t word) {
    v3 ^= word;
    rounds(2);
    v0 ^= word;
  }
};

}  // namespace

HashKey HashKey::random() {
  std::random_device device;
  const auto word = [&] { return (static_cast<std::uint64_t>(device()) << 32) | device(); };
  return {word(), word()};
}

BlockHash siphash(const HashKey& key, std::span<const std::byte> data) {
  State state{0x736f6d6570736575 ^ key.low, 0x646f72616e646f6d ^ key.high ^ 0xee, 0x6c7967656e657261 ^ key.low,
              0x7465646279746573 ^ key.high};
  std::size_t at = 0;
  for (; at + 8 <= data.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data() + at, 8);
    state.absorb(word);
  }
  std::uint64_t last = static_cast<std::uint64_t>(data.size()) << 56;
  for (int shift = 0; at < data.size(); ++at, shift += 8) last |= std::to_integer<std::uint64_t>(data[at]) << shift;
  state.absorb(last);

  BlockHash hash;
  state.v2 ^= 0xee;
  state.rounds(4);
  hash.low = state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
  state.v1 ^= 0xdd;
  state.rounds(4);
  hash.high = state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
  return hash;
}

}  // namespace ashlar::engine
