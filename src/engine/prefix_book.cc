#include "engine/prefix_book.h"

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

namespace ashlar::engine {
namespace {

constexpr std::size_t kChanges = 8192;
constexpr std::size_t kAtOnce = 32;  // keys that are looked up under one lock: who writes should not wait

std::uint64_t random_number() {
  std::random_device device;
  return ((static_cast<std::uint64_t>(device()) << 32) | device()) | 1;
}

}  // namespace

PrefixBook::PrefixBook(int blocks)
    : number_(random_number()),
      entries_(static_cast<std::size_t>(std::max(blocks, 1))),
      buckets_(std::bit_ceil(entries_.size()), -1),
      changes_(kChanges) {}

void PrefixBook::clear(int block) {
  Entry& entry = entries_[static_cast<std::size_t>(block)];
  if (entry.tokens == 0) return;
  int* link = &bucket(entry.key);
  while (*link != block) link = &entries_[static_cast<std::size_t>(*link)].next;
  *link = entry.next;
  log({.key = entry.key, .tokens = 0});
  entry.tokens = 0;
  --size_;
}

bool PrefixBook::write(std::span<const Note> notes, bool wait) {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (wait)
    lock.lock();
  else if (!lock.try_lock())
    return false;
  for (const Note& note : notes) {
    clear(note.block);
    if (note.tokens == 0) continue;
    Entry& entry = entries_[static_cast<std::size_t>(note.block)];
    entry = {.key = note.key, .tokens = note.tokens, .next = std::exchange(bucket(note.key), note.block)};
    log({.key = note.key, .tokens = note.tokens});
    ++size_;
  }
  return true;
}

int PrefixBook::cached(std::span<const std::uint64_t> keys) const {
  // The longest that is there: what comes before it is there, too.
  while (!keys.empty()) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = std::min(kAtOnce, keys.size()); i > 0; --i) {
      const std::uint64_t key = keys.back();
      keys = keys.first(keys.size() - 1);
      int block = buckets_[key & (buckets_.size() - 1)];
      while (block >= 0 && entries_[static_cast<std::size_t>(block)].key != key)
        block = entries_[static_cast<std::size_t>(block)].next;
      if (block >= 0) return entries_[static_cast<std::size_t>(block)].tokens;
    }
  }
  return 0;
}

std::size_t PrefixBook::size() const {
  const std::lock_guard lock(mutex_);
  return size_;
}

CachedPrefixes::News PrefixBook::news(std::uint64_t book, std::uint64_t sequence, std::size_t most) const {
  News out{.book = number_};
  out.changes.reserve(std::min(most, entries_.size()));  // before the lock
  const std::lock_guard lock(mutex_);
  out.sequence = sequence_;
  const std::uint64_t since = sequence_ - sequence;
  if (book == number_ && sequence <= sequence_ && since <= std::min(changes_.size(), most)) {
    out.whole = false;
    for (std::uint64_t at = sequence; at != sequence_; ++at) out.changes.push_back(changes_[at % changes_.size()]);
    return out;
  }
  for (const Entry& entry : entries_) {
    if (entry.tokens == 0) continue;
    out.cut = out.changes.size() == most;
    if (out.cut) break;
    out.changes.push_back({.key = entry.key, .tokens = entry.tokens});
  }
  return out;
}

}  // namespace ashlar::engine
