#include "gateway/limits/prices.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "store/counters.h"

namespace ashlar::gateway {
namespace {

std::int64_t rounded(__int128 millionths) {
  const __int128 nano = (millionths + 999'999) / 1'000'000;
  return static_cast<std::int64_t>(std::min<__int128>(nano, store::kMostAmount));
}

__int128 product(std::int64_t tokens, std::int64_t price) { return static_cast<__int128>(tokens) * price; }

}  // namespace

std::int64_t cost_of(const Price& price, const TokenUse& use) {
  const std::int64_t prompt = std::max<std::int64_t>(0, use.prompt);
  const std::int64_t completion = std::max<std::int64_t>(0, use.completion);
  const std::int64_t cached = std::clamp<std::int64_t>(use.cached, 0, prompt);
  const std::int64_t written = std::clamp<std::int64_t>(use.written, 0, prompt - cached);
  const std::int64_t hour = std::clamp<std::int64_t>(use.hour, 0, written);
  const std::int64_t reasoning = std::clamp<std::int64_t>(use.reasoning, 0, completion);
  return rounded(product(prompt - cached - written, price.input) + product(cached, price.cached_input) +
                 product(written - hour, price.cache_write) + product(hour, price.cache_write_1h) +
                 product(completion - reasoning, price.output) + product(reasoning, price.reasoning));
}

std::int64_t most_cost_of(const Price& price, std::int64_t prompt, std::int64_t completion) {
  return rounded(product(std::max<std::int64_t>(0, prompt),
                         std::max({price.input, price.cached_input, price.cache_write, price.cache_write_1h})) +
                 product(std::max<std::int64_t>(0, completion), std::max(price.output, price.reasoning)));
}

Result<std::int64_t> parse_dollars(std::string_view text) {
  const auto wrong = [&] {
    return Error{Code::invalid,
                 fmt::format("'{}' is not an amount of dollars: a number from 0 to 9000000 with at most nine decimals",
                             text.substr(0, 40))};
  };
  const auto digits = [](std::string_view part) {
    return std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
  };
  const auto point = text.find('.');
  const std::string_view whole = text.substr(0, point);
  std::string part(point == text.npos ? std::string_view() : text.substr(point + 1));
  if (whole.empty() || !digits(whole) || !digits(part) || part.size() > 9 || whole.size() > 7 ||
      (point != text.npos && part.empty()))
    return wrong();
  part.resize(9, '0');
  std::int64_t dollars = 0, nano = 0;
  std::from_chars(whole.data(), whole.data() + whole.size(), dollars);
  std::from_chars(part.data(), part.data() + part.size(), nano);
  if (dollars > 9'000'000 || (dollars == 9'000'000 && nano > 0)) return wrong();
  return dollars * 1'000'000'000 + nano;
}

const Price* PriceTable::find(std::string_view model, std::int64_t utc_ms) const {
  const Day today = std::chrono::floor<std::chrono::days>(
      std::chrono::sys_time<std::chrono::milliseconds>(std::chrono::milliseconds(utc_ms)));
  const auto valid = [&](std::string_view name) -> const Price* {
    const auto entry = entries_.find(name);
    if (entry == entries_.end()) return nullptr;
    const auto later = entry->second.upper_bound(today);
    return later == entry->second.begin() ? nullptr : &std::prev(later)->second;
  };
  if (const Price* price = valid(model)) return price;
  std::string pattern(model);
  pattern.resize(std::min<std::size_t>(pattern.size(), 256));  // the name is a stranger's
  for (std::size_t size = pattern.size() + 1; size-- > 0;) {
    pattern.resize(size);
    pattern += '*';
    if (const Price* price = valid(pattern)) return price;
    pattern.pop_back();
  }
  return nullptr;
}

}  // namespace ashlar::gateway
