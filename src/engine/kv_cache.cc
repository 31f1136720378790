#include "engine/kv_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/result.h"

namespace ashlar::engine {
namespace {

constexpr int kTokens = models::kBlockTokens;
constexpr std::size_t kNotes = 1024;  // at once

std::span<const std::int32_t, kTokens> block_of(std::span<const std::int32_t> tokens, int index) {
  return tokens.subspan(static_cast<std::size_t>(index) * kTokens).first<kTokens>();
}

}  // namespace

KvCache::KvCache(models::KvStore& store, bool prefix_caching, Hash hash)
    : store_(store),
      prefix_caching_(prefix_caching),
      hash_(hash),
      blocks_(static_cast<std::size_t>(store.blocks())),
      buckets_(std::bit_ceil(blocks_.size()), -1),
      book_(std::make_shared<PrefixBook>(prefix_caching ? store.blocks() : 0)) {
  notes_.reserve(kNotes);
  free_.reserve(blocks_.size());
  for (int block = blocks() - 1; block >= 0; --block) free_.push_back(block);
}

BlockHash KvCache::chain(const BlockHash& parent, Tokens tokens) const {
  std::array<std::byte, sizeof parent + tokens.size_bytes()> data;
  std::memcpy(data.data(), &parent, sizeof parent);
  std::memcpy(data.data() + sizeof parent, tokens.data(), tokens.size_bytes());
  return hash_(key_, data);
}

int KvCache::lookup(const BlockHash& hash) const {
  int block = buckets_[hash.low & (buckets_.size() - 1)];
  while (block >= 0 && blocks_[static_cast<std::size_t>(block)].hash != hash)
    block = blocks_[static_cast<std::size_t>(block)].next;
  return block;
}

void KvCache::forget(int block) {
  Block& evicted = blocks_[static_cast<std::size_t>(block)];
  int* link = &bucket(evicted.hash);
  while (*link != block) link = &blocks_[static_cast<std::size_t>(*link)].next;
  *link = evicted.next;
  evicted.serial = 0;
  evicted.salt.reset();
  if (evicted.mark != 0) note(block, 0, 0);
  --cached_;
}

int KvCache::find(const BlockTable& table, const BlockHash& hash, Tokens tokens) const {
  const int found = lookup(hash);
  if (found < 0) return -1;
  const Block& block = blocks_[static_cast<std::size_t>(found)];
  const bool same = block.parent == table.serial_ && std::ranges::equal(block.tokens, tokens) &&
                    (table.serial_ != 0 || *block.salt == *table.salt_);
  return same ? found : -1;
}

void KvCache::step_to(BlockTable& table, int block) {
  const Block& reached = blocks_[static_cast<std::size_t>(block)];
  table.serial_ = reached.serial;
  table.hash_ = reached.hash;
  ++table.known_;
  if (table.marks_ == nullptr) return;
  const std::vector<PrefixMark>& marks = *table.marks_;
  const int tokens = table.known_ * kTokens;
  while (table.next_mark_ < marks.size() && marks[table.next_mark_].tokens < tokens) ++table.next_mark_;
  if (table.next_mark_ == marks.size() || marks[table.next_mark_].tokens != tokens) return;
  if (const std::uint64_t key = marks[table.next_mark_++].key; key != reached.mark) note(block, key, tokens);
}

// Of two that mark one block differently the last is right: they say the same of it.
void KvCache::note(int block, std::uint64_t key, int tokens) {
  if (notes_.size() == kNotes) publish(/*wait=*/true);
  notes_.push_back({.block = block, .key = key, .tokens = tokens});
  blocks_[static_cast<std::size_t>(block)].mark = key;
}

void KvCache::publish(bool wait) {
  if (!notes_.empty() && book_->write(notes_, wait)) notes_.clear();
}

int KvCache::open(BlockTable& table, std::shared_ptr<const std::string> salt, std::span<const std::int32_t> tokens,
                  int limit, PrefixMarks marks) {
  DCHECK(table.blocks_.empty(), "a table is opened empty");
  table.salt_ = std::move(salt);
  table.known_ = 0;
  table.serial_ = 0;
  table.cacheable_ = prefix_caching_;
  table.marks_ = std::move(marks);
  table.next_mark_ = 0;
  if (!prefix_caching_) return 0;
  table.hash_ = hash_(key_, std::as_bytes(std::span(*table.salt_)));
  const int most = std::min(limit, static_cast<int>(tokens.size())) / kTokens;
  for (int index = 0; index < most; ++index) {
    const Tokens wanted = block_of(tokens, index);
    const int block = find(table, chain(table.hash_, wanted), wanted);
    if (block < 0) break;
    hold(block);
    table.blocks_.push_back(block);
    step_to(table, block);
  }
  return table.capacity();
}

bool KvCache::extend(BlockTable& table, int positions) {
  const int more = blocks_for(positions) - static_cast<int>(table.blocks_.size());
  if (more > available()) return false;
  for (int i = 0; i < more; ++i) table.blocks_.push_back(take());
  return true;
}

void KvCache::remember(BlockTable& table, int block, const BlockHash& hash, Tokens tokens) {
  Block& fresh = blocks_[static_cast<std::size_t>(block)];
  fresh.serial = ++last_serial_;
  fresh.parent = table.serial_;
  fresh.hash = hash;
  if (table.serial_ == 0) fresh.salt = table.salt_;
  std::ranges::copy(tokens, fresh.tokens.begin());
  fresh.next = std::exchange(bucket(hash), block);
  ++cached_;
}

void KvCache::commit(BlockTable& table, std::span<const std::int32_t> tokens, int computed) {
  if (!table.cacheable_) return;
  for (int full = computed / kTokens; table.known_ < full;) {
    const Tokens contents = block_of(tokens, table.known_);
    const BlockHash hash = chain(table.hash_, contents);
    int& mine = table.blocks_[static_cast<std::size_t>(table.known_)];
    if (const int theirs = find(table, hash, contents); theirs >= 0) {
      hold(theirs);
      drop(mine);
      mine = theirs;
    } else if (lookup(hash) >= 0) {
      table.cacheable_ = false;  // a collision: neither this block nor its children can be found
      return;
    } else {
      remember(table, mine, hash, contents);
    }
    step_to(table, mine);
  }
}

bool KvCache::fork(const BlockTable& from, BlockTable& to, int positions) {
  DCHECK(to.blocks_.empty() && positions <= from.capacity() && positions >= from.known_ * kTokens,
         "a fork takes what is there");
  const auto full = static_cast<std::size_t>(positions / kTokens);
  const bool partial = positions % kTokens != 0;
  if (partial && available() == 0) return false;
  to = from;
  to.blocks_.resize(full);
  for (const int block : to.blocks_) hold(block);
  if (partial) {
    to.blocks_.push_back(take());
    store_.copy_block(from.blocks_[full], to.blocks_[full]);
  }
  return true;
}

void KvCache::release(BlockTable& table) {
  // Children first: they are evicted first, and no cached block ever loses its parent.
  for (std::size_t i = table.blocks_.size(); i-- > 0;) drop(table.blocks_[i]);
  table.blocks_.clear();
  table.known_ = 0;
  table.serial_ = 0;
  table.salt_.reset();
  table.marks_.reset();
}

int KvCache::take() {
  int block = -1;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    CHECK(oldest_ >= 0, "take() is called when a block is available");
    block = oldest_;
    unlink(block);
    forget(block);
  }
  blocks_[static_cast<std::size_t>(block)].holders = 1;
  return block;
}

void KvCache::hold(int block) {
  Block& held = blocks_[static_cast<std::size_t>(block)];
  if (held.holders++ == 0) unlink(block);
}

void KvCache::drop(int block) {
  Block& dropped = blocks_[static_cast<std::size_t>(block)];
  DCHECK(dropped.holders > 0, "a block is dropped by its holder");
  if (--dropped.holders > 0) return;
  if (dropped.serial != 0)
    link_newest(block);
  else
    free_.push_back(block);
}

void KvCache::link_newest(int block) {
  Block& linked = blocks_[static_cast<std::size_t>(block)];
  linked.older = newest_;
  linked.newer = -1;
  (newest_ >= 0 ? blocks_[static_cast<std::size_t>(newest_)].newer : oldest_) = block;
  newest_ = block;
  ++idle_;
}

void KvCache::unlink(int block) {
  const Block& gone = blocks_[static_cast<std::size_t>(block)];
  (gone.older >= 0 ? blocks_[static_cast<std::size_t>(gone.older)].newer : oldest_) = gone.newer;
  (gone.newer >= 0 ? blocks_[static_cast<std::size_t>(gone.newer)].older : newest_) = gone.older;
  --idle_;
}

}  // namespace ashlar::engine
