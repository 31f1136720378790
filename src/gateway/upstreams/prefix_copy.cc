#include "gateway/upstreams/prefix_copy.h"

#include <charconv>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json_full.h"
#include "gateway/upstreams/wire.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostKeys = 1 << 18;  // of one model: a server that says more is not believed the rest
constexpr std::size_t kDigits = 16;

std::optional<std::uint64_t> read_hex(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (text.size() != kDigits || failed != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<engine::CachedPrefixes::News> read_news(std::string_view answer) {
  const auto json = parse_json(answer, {.depth = 4, .members = 64});
  if (!json || !json->is_object()) return std::nullopt;
  const auto book = read_hex(string_member(*json, "book"));
  const Json *sequence = find_member(*json, "sequence"), *whole = find_member(*json, "whole"),
             *tokens = find_member(*json, "tokens");
  const std::string_view keys = string_member(*json, "keys");
  if (!book || sequence == nullptr || !sequence->is_number_unsigned() || whole == nullptr || !whole->is_boolean() ||
      tokens == nullptr || !tokens->is_array() || keys.size() != tokens->size() * kDigits)
    return std::nullopt;
  engine::CachedPrefixes::News out{
      .book = *book, .sequence = sequence->get<std::uint64_t>(), .whole = whole->get<bool>()};
  for (std::size_t i = 0; i < tokens->size(); ++i) {
    const auto key = read_hex(keys.substr(i * kDigits, kDigits));
    const Json& count = (*tokens)[i];
    if (!key || !count.is_number_unsigned() || count.get<std::uint64_t>() > 1'000'000'000) return std::nullopt;
    out.changes.push_back({.key = *key, .tokens = count.get<int>()});
  }
  return out;
}

}  // namespace

PrefixCopy::Place PrefixCopy::place() const {
  const std::lock_guard lock(mutex_);
  return place_;
}

Status PrefixCopy::take(std::string_view answer, const Place& asked) {
  auto news = read_news(answer);
  std::unordered_map<std::uint64_t, Entry> old;  // dies after the lock
  const std::lock_guard lock(mutex_);
  const bool goes_on = news && (news->whole || (news->book == place_.book && asked.sequence == place_.sequence &&
                                                news->sequence == place_.sequence + news->changes.size()));
  if (!goes_on) {
    old.swap(entries_);
    place_ = {};
    return Error{Code::corrupt, "it answers what is no news of its prefix cache"};
  }
  if (news->whole) old.swap(entries_);
  for (const Change& change : news->changes) apply(change);
  place_ = {.book = news->book, .sequence = news->sequence};
  standing_ = Standing::tells;
  return {};
}

void PrefixCopy::apply(const Change& change) {
  if (change.tokens > 0) {
    if (entries_.size() >= kMostKeys && !entries_.contains(change.key)) return;
    Entry& entry = entries_[change.key];
    entry.tokens = change.tokens;
    ++entry.count;
    return;
  }
  const auto found = entries_.find(change.key);
  if (found != entries_.end() && --found->second.count == 0) entries_.erase(found);
}

void PrefixCopy::clear() {
  std::unordered_map<std::uint64_t, Entry> old;
  const std::lock_guard lock(mutex_);
  old.swap(entries_);
  place_ = {};
}

bool PrefixCopy::give_up() {
  clear();
  const std::lock_guard lock(mutex_);
  return std::exchange(standing_, Standing::silent) != Standing::silent;
}

bool PrefixCopy::told() const {
  const std::lock_guard lock(mutex_);
  return standing_ == Standing::tells;
}

int PrefixCopy::cached(std::span<const std::uint64_t> keys) const {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = keys.size(); i > 0; --i)
    if (const auto found = entries_.find(keys[i - 1]); found != entries_.end()) return found->second.tokens;
  return 0;
}

std::size_t PrefixCopy::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

engine::CachedPrefixes::News PrefixCopy::news(std::uint64_t, std::uint64_t, std::size_t most) const {
  const std::lock_guard lock(mutex_);
  News out{.book = place_.book, .sequence = place_.sequence, .cut = entries_.size() > most};
  for (const auto& [key, entry] : entries_) {
    if (out.changes.size() == most) break;
    out.changes.push_back({.key = key, .tokens = entry.tokens});
  }
  return out;
}

}  // namespace ashlar::gateway
