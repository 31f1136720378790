#include "text/merge.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace ashlar::text {
namespace {

// Merges of random pairs of ids, as a vocabulary lists them.
struct Merges {
  std::map<std::pair<TokenId, TokenId>, Pair> table;
  Pair operator()(const Symbol& a, const Symbol& b) const {
    const auto found = table.find({a.id, b.id});
    return found == table.end() ? Pair{} : found->second;
  }
};

Merges random_merges(std::mt19937& random, int letters, int count) {
  Merges merges;
  for (int i = 0; i < count; ++i) {
    const auto known = static_cast<unsigned>(letters + i);
    merges.table.insert({{static_cast<TokenId>(random() % known), static_cast<TokenId>(random() % known)},
                         {static_cast<std::uint32_t>(i / 2), static_cast<TokenId>(letters + i)}});
  }
  return merges;
}

std::vector<Symbol> random_word(std::mt19937& random, int letters, std::size_t length) {
  std::vector<Symbol> word;
  for (std::uint32_t i = 0; i < length; ++i)
    word.push_back({i, 1, static_cast<TokenId>(random() % static_cast<unsigned>(letters))});
  return word;
}

// The definition: look at all pairs, join the best and leftmost, begin again.
std::vector<Symbol> merged_plainly(std::vector<Symbol> word, const Merges& merges) {
  for (;;) {
    std::size_t best = 0;
    Pair found;
    for (std::size_t i = 0; i + 1 < word.size(); ++i)
      if (const Pair pair = merges(word[i], word[i + 1]); pair.rank < found.rank) best = i, found = pair;
    if (found.rank == Pair::kNever) return word;
    word[best] = {word[best].begin, word[best].length + word[best + 1].length, found.id};
    word.erase(word.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

void expect_equal(const std::vector<Symbol>& a, const std::vector<Symbol>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].begin, b[i].begin);
    EXPECT_EQ(a[i].length, b[i].length);
    EXPECT_EQ(a[i].id, b[i].id);
  }
}

TEST(Merge, TheShortAndTheLongWayGiveWhatTheDefinitionGives) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    const Merges merges = random_merges(random, 4, 40);
    const std::vector<Symbol> word = random_word(random, 4, random() % 120);
    const std::vector<Symbol> expected = merged_plainly(word, merges);
    std::vector<Pair> scratch;
    std::vector<Symbol> quadratic = word, heap = word, chosen = word;
    detail::merge_short(quadratic, merges, scratch);
    detail::merge_long(heap, merges);
    merge(chosen, merges, scratch);
    expect_equal(quadratic, expected);
    expect_equal(heap, expected);
    expect_equal(chosen, expected);
  }
}

}  // namespace
}  // namespace ashlar::text
