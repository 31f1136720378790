// What another Ashlar says of its prefix cache, as we know it: the answers of its GET /v1/cache/prefixes/MODEL.
//
//   {"model": "m", "book": "00f1...", "sequence": 12, "whole": false, "cut": false,
//    "keys": "0a1b2c3d4e5f60710a1b2c...", "tokens": [48, 0, ...]}
//
// Each 16 hexadecimal digits of `keys` are a key, of which `tokens` says how many tokens are cached up to there; 0: it
// is no longer. We ask from the sequence that we know; another book (it began anew) or a gap gives the whole.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string_view>
#include <unordered_map>

#include "base/result.h"
#include "engine/prefixes.h"

namespace ashlar::gateway {

// Any thread.
class PrefixCopy final : public engine::CachedPrefixes {
 public:
  struct Place {
    std::uint64_t book = 0, sequence = 0;
  };
  // Up to where it is known.
  Place place() const;
  // An answer to what was asked from `asked`. corrupt: it is none, or does not go on from there; then nothing is known.
  Status take(std::string_view answer, const Place& asked);
  // It is there, and has nothing as far as we know.
  void clear();
  // It does not tell. true: it did until now, or was never asked.
  bool give_up();
  bool told() const;

  int cached(std::span<const std::uint64_t> keys) const override;
  std::size_t size() const override;
  News news(std::uint64_t book, std::uint64_t sequence, std::size_t most) const override;  // all, always

 private:
  enum class Standing { unasked, tells, silent };
  struct Entry {
    int tokens = 0, count = 0;
  };
  void apply(const Change& change);

  mutable std::mutex mutex_;
  Place place_;  // GUARDED_BY(mutex_), as is the rest
  std::unordered_map<std::uint64_t, Entry> entries_;
  Standing standing_ = Standing::unasked;
};

}  // namespace ashlar::gateway
