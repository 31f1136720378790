// Which beginnings of prompts a deployment was sent: what its KV cache has, where nobody can say it
// (engine::CachedPrefixes), or has not said it yet.
//
// What was sent there is taken to be there, and the key used longest ago to have gone when the room was full.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <utility>

namespace ashlar::gateway {

// One deployment's. Not thread-safe.
class PrefixIndex {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit PrefixIndex(std::size_t most) : most_(most) {}

  // How many of the leading keys were sent, none before `since`.
  std::size_t match(std::span<const std::uint64_t> keys, TimePoint since = TimePoint::min()) const;
  void sent(std::span<const std::uint64_t> keys, TimePoint now = {});
  std::size_t size() const { return order_.size(); }

 private:
  using Sent = std::pair<std::uint64_t, TimePoint>;
  void send(std::uint64_t key, TimePoint now);

  std::size_t most_;
  std::list<Sent> order_;  // the one used longest ago first
  std::unordered_map<std::uint64_t, std::list<Sent>::iterator> index_;
};

}  // namespace ashlar::gateway
