// Who holds which KV block: tables of the running sequences, blocks shared by
// reference, and the prefix cache of blocks whose contents are known.
//
// The prefix cache is a hash chain over full blocks: a block's key is the hash of
// its parent's key and its tokens; the first one's parent is the salt (tenant and
// all that must not be shared). A hit is believed only after the tokens and the
// parent were compared, so a collision costs a miss and never shows one
// sequence's text to another. Blocks that nobody holds stay cached until their
// room is needed, the least recently used first, children before parents.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/block_hash.h"
#include "engine/prefix_book.h"
#include "engine/prefix_marks.h"
#include "models/model.h"

namespace ashlar::engine {

using PrefixMarks = std::shared_ptr<const std::vector<PrefixMark>>;  // null: none

// The blocks of one sequence, by position. Filled and emptied by one KvCache,
// which must outlive it; release() it before it dies.
class BlockTable {
 public:
  std::span<const int> blocks() const { return blocks_; }
  // Positions that have room.
  int capacity() const { return static_cast<int>(blocks_.size()) * models::kBlockTokens; }

 private:
  friend class KvCache;
  std::vector<int> blocks_;
  std::shared_ptr<const std::string> salt_;
  int known_ = 0;             // leading blocks that are cached ones
  std::uint64_t serial_ = 0;  // of the last of them; 0: none yet
  BlockHash hash_;            // its key, or the salt's
  bool cacheable_ = false;
  PrefixMarks marks_;
  std::size_t next_mark_ = 0;
};

// Engine thread only: nothing here locks.
class KvCache {
 public:
  using Hash = BlockHash (*)(const HashKey& key, std::span<const std::byte> data);

  // `store` is borrowed. `hash` is there for tests, which make it collide.
  KvCache(models::KvStore& store, bool prefix_caching, Hash hash = siphash);

  // Begins an empty table with the longest cached prefix of `tokens`, whole
  // blocks of at most `limit` tokens, and returns how many tokens that is. A
  // caller that needs the last token's logits asks for one token less. The book has
  // `marks` as long as the blocks that they end with are cached.
  int open(BlockTable& table, std::shared_ptr<const std::string> salt, std::span<const std::int32_t> tokens, int limit,
           PrefixMarks marks = nullptr);

  // Room for the first `positions` positions: all of it or nothing (false).
  bool extend(BlockTable& table, int positions);

  // The keys and values of the first `computed` of `tokens` are in the store: full
  // blocks among them can be found by others from now on. A block that another
  // sequence cached meanwhile is swapped for that one.
  void commit(BlockTable& table, std::span<const std::int32_t> tokens, int computed);

  // An empty `to` gets the first `positions` of `from`: full blocks are shared, a
  // partial last one is copied. false: no room for the copy; `to` stays empty.
  bool fork(const BlockTable& from, BlockTable& to, int positions);

  // Gives everything back.
  void release(BlockTable& table);

  // What is cached of marked prompts, as of the last publish(). Outlives us, if it is held.
  const std::shared_ptr<PrefixBook>& book() const { return book_; }
  // Writes what changed into the book; not if somebody reads there and nobody is to `wait`.
  void publish(bool wait);

  bool caches_prefixes() const { return prefix_caching_; }
  int blocks() const { return static_cast<int>(blocks_.size()); }
  // Blocks that nobody holds, cached or not.
  int available() const { return static_cast<int>(free_.size()) + idle_; }
  // Blocks whose contents can be found.
  int cached() const { return cached_; }
  double used_share() const { return 1.0 - static_cast<double>(available()) / static_cast<double>(blocks()); }

  static int blocks_for(int positions) { return (positions + models::kBlockTokens - 1) / models::kBlockTokens; }

 private:
  struct Block {
    int holders = 0;
    int older = -1, newer = -1;  // neighbours among the idle ones
    int next = -1;               // in its bucket, if cached
    std::uint64_t serial = 0;    // names these contents for ever; 0: not cached
    std::uint64_t parent = 0;    // the serial before; 0: first of its chain
    BlockHash hash;
    std::shared_ptr<const std::string> salt;  // of a first block
    std::uint64_t mark = 0;                   // its key in the book; 0: none
    std::array<std::int32_t, models::kBlockTokens> tokens;
  };
  using Tokens = std::span<const std::int32_t, models::kBlockTokens>;

  BlockHash chain(const BlockHash& parent, Tokens tokens) const;
  int& bucket(const BlockHash& hash) { return buckets_[hash.low & (buckets_.size() - 1)]; }
  // The cached block of this hash, whatever its contents; -1: none.
  int lookup(const BlockHash& hash) const;
  void forget(int block);
  // The cached block that continues `table` with `tokens`; -1: none.
  int find(const BlockTable& table, const BlockHash& hash, Tokens tokens) const;
  void remember(BlockTable& table, int block, const BlockHash& hash, Tokens tokens);
  void step_to(BlockTable& table, int block);
  void note(int block, std::uint64_t key, int tokens);
  int take();
  void hold(int block);
  void drop(int block);
  void link_newest(int block);
  void unlink(int block);

  models::KvStore& store_;
  bool prefix_caching_;
  Hash hash_;
  HashKey key_ = HashKey::random();
  std::vector<Block> blocks_;
  std::vector<int> free_;  // neither held nor cached
  std::vector<int>
      buckets_;  // of hashes: the first cached block of each; a power of two, so that a step allocates nothing
  std::shared_ptr<PrefixBook> book_;
  std::vector<PrefixBook::Note> notes_;  // not yet in the book; never grows
  int cached_ = 0;
  int idle_ = 0;  // cached, held by nobody: a list from oldest_ to newest_
  int oldest_ = -1, newest_ = -1;
  std::uint64_t last_serial_ = 0;
};

}  // namespace ashlar::engine
