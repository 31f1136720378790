// Who shows many wrong keys is told to wait: guesses cost whoever guesses, and the log of refusals stays readable.
// Right keys are never asked here, so nobody behind the same address is kept out.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "gateway/identity/network.h"

namespace ashlar::api {

// A bucket of failures for each network that one customer has: an IPv4 address, 64 bits of an IPv6 address. Any thread.
class WrongKeys {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr int kBurst = 30;                         // wrong keys at once
  static constexpr std::chrono::milliseconds kEach{3'000};  // then one in this time
  static constexpr std::size_t kMostNetworks = 20'000;      // whoever comes beyond shares one bucket

  // This wrong key came from there. Nothing: it may be told so; else the time until it may.
  std::optional<std::chrono::milliseconds> count(const std::optional<gateway::Address>& from, std::string_view key,
                                                 Clock::time_point now);
  std::size_t size() const;

 private:
  using Network = std::uint64_t;
  struct Bucket {
    Clock::time_point full_at;          // when all of it is there again
    std::array<std::size_t, 4> told{};  // hashes of the last keys that were told to be wrong
    std::size_t next = 0;               // in whose place the next comes
  };
  static Network network_of(const std::optional<gateway::Address>& from);
  Bucket& find(Network network, Clock::time_point now);

  mutable std::mutex mutex_;
  std::unordered_map<Network, Bucket> buckets_;  // GUARDED_BY(mutex_)
  Bucket others_{};                              // GUARDED_BY(mutex_)
};

}  // namespace ashlar::api
