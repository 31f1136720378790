#include "api/wrong_keys.h"

#include <algorithm>
#include <functional>
#include <iterator>

namespace ashlar::api {

WrongKeys::Network WrongKeys::network_of(const std::optional<gateway::Address>& from) {
  if (!from) return 0;
  const auto& bytes = from->bytes;
  const bool v4 = std::all_of(bytes.begin(), bytes.begin() + 10, [](std::uint8_t b) { return b == 0; }) &&
                  bytes[10] == 0xff && bytes[11] == 0xff;
  Network out = v4 ? 0xffff : 0;  // no IPv6 network begins so: ::ffff:0:0 are the IPv4 addresses themselves
  const auto begin = bytes.begin() + (v4 ? 12 : 0), end = v4 ? bytes.end() : bytes.begin() + 8;
  for (auto each = begin; each != end; ++each) out = out << 8 | *each;
  return out;
}

WrongKeys::Bucket& WrongKeys::find(Network network, Clock::time_point now) {
  const auto found = buckets_.find(network);
  if (found != buckets_.end()) return found->second;
  if (buckets_.size() >= kMostNetworks)
    std::erase_if(buckets_, [&](const auto& each) { return each.second.full_at <= now; });
  if (buckets_.size() >= kMostNetworks) return others_;
  return buckets_[network];
}

std::optional<std::chrono::milliseconds> WrongKeys::count(const std::optional<gateway::Address>& from,
                                                          std::string_view key, Clock::time_point now) {
  const std::size_t hash = std::hash<std::string_view>{}(key) | 1;
  const std::lock_guard lock(mutex_);
  Bucket& bucket = find(network_of(from), now);
  if (std::ranges::find(bucket.told, hash) != bucket.told.end()) return std::nullopt;
  const auto full_at = std::max(bucket.full_at, now) + kEach;
  const auto most = now + kBurst * kEach;
  if (full_at > most) return std::chrono::ceil<std::chrono::milliseconds>(full_at - most);
  bucket.full_at = full_at;
  bucket.told[bucket.next++ % bucket.told.size()] = hash;
  return std::nullopt;
}

std::size_t WrongKeys::size() const {
  const std::lock_guard lock(mutex_);
  return buckets_.size();
}

}  // namespace ashlar::api
