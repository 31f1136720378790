#include "engine/kv_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "engine/fakes_for_test.h"

namespace ashlar::engine {
namespace {

using Tokens = std::vector<std::int32_t>;

std::shared_ptr<const std::string> salt(std::string text = "tenant") {
  return std::make_shared<const std::string>(std::move(text));
}

Tokens count_from(std::int32_t first, int count) {
  Tokens tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A cache over a store of its own.
struct Shelf {
  fake::KvStore store;
  KvCache cache;
  explicit Shelf(int blocks, bool prefix_caching = true, KvCache::Hash hash = siphash)
      : store(blocks), cache(store, prefix_caching, hash) {}

  // Computes `tokens` in a table of their own and gives it back.
  void compute(const Tokens& tokens, const std::string& whose = "tenant") {
    BlockTable table;
    cache.open(table, salt(whose), tokens, 0);
    ASSERT_TRUE(cache.extend(table, static_cast<int>(tokens.size())));
    cache.commit(table, tokens, static_cast<int>(tokens.size()));
    cache.release(table);
  }
  int hit(const Tokens& tokens, const std::string& whose = "tenant") {
    BlockTable table;
    const int found = cache.open(table, salt(whose), tokens, static_cast<int>(tokens.size()));
    cache.release(table);
    return found;
  }
};

TEST(BlockHash, GivesThePublishedVectors) {
  // Of the reference implementation: key 00..0f, message 00..(length - 1).
  const struct {
    int length;
    std::uint64_t low, high;
  } vectors[] = {
      {0, 0xe6a825ba047f81a3, 0x930255c71472f66d},
      {1, 0x44af996bd8c187da, 0x45fc229b11597634},
      {8, 0x61f55862baa9623b, 0xb49714f364e2830f},
      {15, 0x11a8b03399e99354, 0xd9c3cf970fec087e},
  };
  for (const auto& vector : vectors) {
    std::vector<std::byte> data;
    for (int i = 0; i < vector.length; ++i) data.push_back(static_cast<std::byte>(i));
    const BlockHash hash = siphash({0x0706050403020100, 0x0f0e0d0c0b0a0908}, data);
    EXPECT_EQ(hash.low, vector.low) << vector.length;
    EXPECT_EQ(hash.high, vector.high) << vector.length;
  }
}

TEST(KvCache, ExtendTakesAllOrNothing) {
  Shelf shelf(4);
  BlockTable a, b;
  shelf.cache.open(a, salt(), {}, 0);
  shelf.cache.open(b, salt(), {}, 0);
  EXPECT_TRUE(shelf.cache.extend(a, 33));
  EXPECT_EQ(a.blocks().size(), 3u);
  EXPECT_FALSE(shelf.cache.extend(b, 17));
  EXPECT_TRUE(b.blocks().empty());
  EXPECT_EQ(shelf.cache.available(), 1);
  EXPECT_TRUE(shelf.cache.extend(a, 48)) << "there was room already";
  EXPECT_EQ(shelf.cache.available(), 1);
  shelf.cache.release(a);
  EXPECT_EQ(shelf.cache.available(), 4);
}

TEST(KvCache, FindsTheLongestPrefixOfWholeBlocks) {
  Shelf shelf(8);
  const Tokens tokens = count_from(0, 40);
  shelf.compute(tokens);
  EXPECT_EQ(shelf.cache.cached(), 2);
  EXPECT_EQ(shelf.hit(tokens), 32);
  EXPECT_EQ(shelf.hit(count_from(0, 31)), 16);
  EXPECT_EQ(shelf.hit(count_from(0, 15)), 0);
  Tokens other = tokens;
  other[20] = 999;
  EXPECT_EQ(shelf.hit(other), 16);
  other[0] = 999;
  EXPECT_EQ(shelf.hit(other), 0);
  EXPECT_EQ(shelf.hit(count_from(16, 16)), 0) << "the same block in another place";
}

TEST(KvCache, AFullHitLeavesTheLastBlockToBeComputedForItsLogits) {
  Shelf shelf(8);
  const Tokens tokens = count_from(0, 32);
  shelf.compute(tokens);
  BlockTable table;
  EXPECT_EQ(shelf.cache.open(table, salt(), tokens, 31), 16);
  shelf.cache.release(table);
}

TEST(KvCache, SaltsShareNothing) {
  Shelf shelf(8);
  shelf.compute(count_from(0, 32), "a");
  EXPECT_EQ(shelf.hit(count_from(0, 32), "b"), 0);
  EXPECT_EQ(shelf.hit(count_from(0, 32), "a"), 32);
}

TEST(KvCache, ACollisionIsAMissAndNeverAnothersBlock) {
  // Every hash is the same: only the comparison of tokens, parents and salts keeps sequences apart.
  Shelf shelf(16, true, [](const HashKey&, std::span<const std::byte>) { return BlockHash{1, 2}; });
  shelf.compute(count_from(0, 48), "a");
  EXPECT_EQ(shelf.cache.cached(), 1) << "the second block collides with the first";
  EXPECT_EQ(shelf.hit(count_from(0, 48), "a"), 16);
  EXPECT_EQ(shelf.hit(count_from(0, 48), "b"), 0);
  EXPECT_EQ(shelf.hit(count_from(1, 48), "a"), 0);
  Tokens twice = count_from(0, 16);
  twice.insert(twice.end(), twice.begin(), twice.begin() + 16);
  EXPECT_EQ(shelf.hit(twice, "a"), 16) << "the same tokens one block later have another parent";
  shelf.compute(count_from(100, 48), "b");
  EXPECT_EQ(shelf.cache.available(), 16);
}

TEST(KvCache, EvictsTheLeastRecentlyUsedChildrenFirst) {
  Shelf shelf(6);
  shelf.compute(count_from(0, 48));
  shelf.compute(count_from(1000, 48));
  EXPECT_EQ(shelf.cache.cached(), 6);
  EXPECT_EQ(shelf.hit(count_from(0, 48)), 48) << "and is the more recently used of the two from now on";
  shelf.compute(count_from(2000, 16));
  EXPECT_EQ(shelf.hit(count_from(1000, 48)), 32);
  EXPECT_EQ(shelf.hit(count_from(0, 48)), 48);
}

TEST(KvCache, HeldBlocksAreNotEvicted) {
  Shelf shelf(4);
  const Tokens tokens = count_from(0, 32);
  shelf.compute(tokens);
  BlockTable holder, greedy;
  EXPECT_EQ(shelf.cache.open(holder, salt(), tokens, 32), 32);
  shelf.cache.open(greedy, salt(), {}, 0);
  EXPECT_FALSE(shelf.cache.extend(greedy, 48));
  EXPECT_TRUE(shelf.cache.extend(greedy, 32));
  EXPECT_EQ(shelf.hit(tokens), 32);
  shelf.cache.release(holder);
  shelf.cache.release(greedy);
}

TEST(KvCache, SequencesThatComputedTheSameShareItAfterwards) {
  Shelf shelf(8);
  const Tokens tokens = count_from(0, 32);
  BlockTable a, b;
  for (BlockTable* table : {&a, &b}) {
    EXPECT_EQ(shelf.cache.open(*table, salt(), tokens, 31), 0);
    ASSERT_TRUE(shelf.cache.extend(*table, 32));
  }
  EXPECT_EQ(shelf.cache.available(), 4);
  shelf.cache.commit(a, tokens, 32);
  shelf.cache.commit(b, tokens, 32);
  EXPECT_TRUE(std::ranges::equal(a.blocks(), b.blocks()));
  EXPECT_EQ(shelf.cache.available(), 6);
  shelf.cache.release(a);
  EXPECT_EQ(shelf.cache.available(), 6);
  shelf.cache.release(b);
  EXPECT_EQ(shelf.cache.available(), 8);
}

TEST(KvCache, AForkSharesFullBlocksAndCopiesThePartialOne) {
  Shelf shelf(8);
  const Tokens tokens = count_from(0, 20);
  BlockTable from, to;
  shelf.cache.open(from, salt(), tokens, 19);
  ASSERT_TRUE(shelf.cache.extend(from, 20));
  shelf.store.at(from.blocks()[1], 3) = {19, 19};
  shelf.cache.commit(from, tokens, 20);
  ASSERT_TRUE(shelf.cache.fork(from, to, 20));
  EXPECT_EQ(to.blocks()[0], from.blocks()[0]);
  EXPECT_NE(to.blocks()[1], from.blocks()[1]);
  EXPECT_EQ(shelf.store.at(to.blocks()[1], 3).token, 19);
  EXPECT_EQ(shelf.store.copies, 1);
  shelf.cache.release(from);
  EXPECT_EQ(shelf.cache.available(), 6);
  shelf.cache.release(to);
  EXPECT_EQ(shelf.cache.available(), 8);
}

TEST(KvCache, AForkWithoutRoomTakesNothing) {
  Shelf shelf(2);
  BlockTable from, to;
  shelf.cache.open(from, salt(), {}, 0);
  ASSERT_TRUE(shelf.cache.extend(from, 20));
  EXPECT_FALSE(shelf.cache.fork(from, to, 20));
  EXPECT_TRUE(to.blocks().empty());
  EXPECT_TRUE(shelf.cache.fork(from, to, 16)) << "whole blocks need no copy";
  shelf.cache.release(from);
  shelf.cache.release(to);
  EXPECT_EQ(shelf.cache.available(), 2);
}

TEST(KvCache, WithoutPrefixCachingNothingIsFound) {
  Shelf shelf(4, false);
  shelf.compute(count_from(0, 32));
  EXPECT_EQ(shelf.cache.cached(), 0);
  EXPECT_EQ(shelf.hit(count_from(0, 32)), 0);
}

TEST(KvCache, RandomUseLeaksNothing) {
  std::mt19937 random(7);
  Shelf shelf(12);
  struct Live {
    Tokens tokens;
    BlockTable table;
    int computed = 0;
  };
  std::vector<std::unique_ptr<Live>> live;
  const auto at_most = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n + 1)); };
  for (int round = 0; round < 20'000; ++round) {
    const int action = at_most(3);
    if (action == 0 || live.empty()) {
      auto one = std::make_unique<Live>();
      one->tokens.assign(static_cast<std::size_t>(1 + at_most(60)), at_most(1));
      one->computed = shelf.cache.open(one->table, salt(at_most(1) != 0 ? "x" : "y"), one->tokens,
                                       static_cast<int>(one->tokens.size()) - 1);
      live.push_back(std::move(one));
    } else if (action == 1) {
      Live& one = *live[static_cast<std::size_t>(at_most(static_cast<int>(live.size()) - 1))];
      const int to = one.computed + at_most(static_cast<int>(one.tokens.size()) - one.computed);
      if (!shelf.cache.extend(one.table, to)) continue;
      one.computed = to;
      shelf.cache.commit(one.table, one.tokens, to);
    } else if (action == 2) {
      const Live& from = *live[static_cast<std::size_t>(at_most(static_cast<int>(live.size()) - 1))];
      auto one = std::make_unique<Live>(Live{from.tokens, {}, from.computed});
      if (shelf.cache.fork(from.table, one->table, from.computed)) live.push_back(std::move(one));
    } else {
      const auto index = static_cast<std::size_t>(at_most(static_cast<int>(live.size()) - 1));
      shelf.cache.release(live[index]->table);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
    }
  }
  for (const auto& one : live) shelf.cache.release(one->table);
  EXPECT_EQ(shelf.cache.available(), 12);
  EXPECT_EQ(shelf.cache.used_share(), 0);
}

}  // namespace
}  // namespace ashlar::engine
