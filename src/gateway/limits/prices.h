// What models cost, by date, and what a request's tokens cost by it: whole nano-dollars, rounded up once a request.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::gateway {

// What went through a model. Reasoning is a part of the completion; what a cache had (cached) or was written with
// (written) are parts of the prompt, no token of both; what it keeps for an hour (hour) is a part of what was written.
struct TokenUse {
  std::int64_t prompt = 0, cached = 0, written = 0, hour = 0;
  std::int64_t completion = 0, reasoning = 0;
  std::int64_t total() const { return prompt + completion; }
  bool operator==(const TokenUse&) const = default;
};

// Nano-dollars for a million tokens: "$0.15 a million" is 150,000,000.
struct Price {
  std::int64_t input = 0, cached_input = 0, cache_write = 0;
  std::int64_t output = 0, reasoning = 0;
  std::int64_t cache_write_1h = 0;
  bool operator==(const Price&) const = default;
};

// In nano-dollars; what is less than one counts as one. At most store::kMostAmount. Counts below 0 are 0; more cached
// than prompt tokens, more written than are left beside those, or more reasoning than completion, are as many.
std::int64_t cost_of(const Price& price, const TokenUse& use);
// The most that so many tokens can cost, whatever of them turns out to be cached, written or reasoning.
std::int64_t most_cost_of(const Price& price, std::int64_t prompt, std::int64_t completion);

// "2.50" dollars in nano-dollars, exactly. invalid: not a decimal number of at most nine digits after the point, below
// 0, or more than nine million.
Result<std::int64_t> parse_dollars(std::string_view text);

// Immutable once filled; any thread.
class PriceTable {
 public:
  using Day = std::chrono::sys_days;

  // `model`: a name, or the beginning of names and a '*'. Valid from that day (UTC) on, until the next entry for the
  // same name begins.
  void add(const std::string& model, Day from, const Price& price) { entries_[model][from] = price; }

  // Of the exact name, else of the longest beginning that fits, where one is valid by then. Null: the model has no
  // price.
  const Price* find(std::string_view model, std::int64_t utc_ms) const;
  bool empty() const { return entries_.empty(); }

 private:
  std::map<std::string, std::map<Day, Price>, std::less<>> entries_;
};

}  // namespace ashlar::gateway
