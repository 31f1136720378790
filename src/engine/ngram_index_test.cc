#include "engine/ngram_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace ashlar::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Tokens = std::vector<std::int32_t>;

// The same by comparing every place, the latest first.
NgramIndex::Match naive(const Tokens& text, std::size_t begin) {
  NgramIndex::Match best;
  for (std::size_t end = text.size() - 1; end-- > 0;) {
    int length = 0;
    while (length < NgramIndex::kEnough && static_cast<std::size_t>(length) <= end &&
           begin + static_cast<std::size_t>(length) < text.size() &&
           text[end - static_cast<std::size_t>(length)] == text[text.size() - 1 - static_cast<std::size_t>(length)])
      ++length;
    if (length >= NgramIndex::kShortest && length > best.length)
      best = {.length = length, .next = static_cast<int>(end) + 1};
  }
  return best;
}

Tokens continuation(const NgramIndex& index, int count) {
  Tokens out;
  if (const auto match = index.find(); match.length > 0) index.read(match, count, out);
  return out;
}

TEST(NgramIndex, FindsWhatAnExhaustiveSearchFinds) {
  std::mt19937 random(7);
  for (const int alphabet : {12, 20, 40}) {
    // So short that no place has more than kLooks others like it.
    Tokens tokens;
    NgramIndex index;
    for (int i = 0; i < 1500; ++i) {
      // Now and then a piece of what was there comes again.
      if (tokens.size() > 50 && random() % 30 == 0) {
        const std::size_t from = random() % (tokens.size() - 45), length = random() % 45;
        for (std::size_t j = 0; j < length; ++j) tokens.push_back(tokens[from + j]);
      } else {
        tokens.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(alphabet)));
      }
      index.follow(tokens);
      if (tokens.size() < 2) continue;
      const auto found = index.find(), expected = naive(tokens, 0);
      ASSERT_EQ(found.length, expected.length) << alphabet << " " << tokens.size();
      ASSERT_EQ(found.next, expected.next) << alphabet << " " << tokens.size();
    }
  }
}

TEST(NgramIndex, PrefersTheLongestThenTheLatest) {
  NgramIndex index;
  index.follow(Tokens{1, 2, 3, 10, 9, 2, 3, 20, 1, 2, 3});
  EXPECT_THAT(continuation(index, 2), ElementsAre(10, 9)) << "three agree";
  NgramIndex latest;
  latest.follow(Tokens{7, 2, 3, 10, 8, 2, 3, 20, 1, 2, 3});
  EXPECT_THAT(continuation(latest, 1), ElementsAre(20));
}

TEST(NgramIndex, OneTokenAloneIsNoMatch) {
  NgramIndex index;
  EXPECT_EQ(index.find().length, 0);
  index.follow(Tokens{5});
  EXPECT_EQ(index.find().length, 0);
  index.follow(Tokens{5, 6, 5});
  EXPECT_EQ(index.find().length, 0);
  index.follow(Tokens{5, 6, 5, 6});
  EXPECT_EQ(index.find().length, 2);
}

TEST(NgramIndex, ARepetitionGoesOnWithItself) {
  NgramIndex index;
  index.follow(Tokens{1, 2, 3, 1, 2, 3, 1, 2});
  EXPECT_THAT(continuation(index, 7), ElementsAre(3, 1, 2, 3, 1, 2, 3));
}

TEST(NgramIndex, LooksIntoTheTextBeforeAndStopsAtItsEnd) {
  NgramIndex index(Tokens{4, 5, 6, 7});
  index.follow(Tokens{1, 4, 5});
  EXPECT_THAT(continuation(index, 5), ElementsAre(6, 7));
  index.follow(Tokens{1, 4, 5, 8, 6, 7});
  EXPECT_THAT(continuation(index, 5), IsEmpty()) << "nothing follows";
}

TEST(NgramIndex, AMatchDoesNotReachBackIntoTheTextBefore) {
  NgramIndex index(Tokens{1, 2, 3});
  index.follow(Tokens{2});
  EXPECT_EQ(index.find().length, 0);
  index.follow(Tokens{2, 3});
  EXPECT_EQ(index.find().length, 2);
}

TEST(NgramIndex, LooksAtFewPlacesHoweverManyThereAre) {
  NgramIndex index;
  Tokens tokens(200'000, 1);
  index.follow(tokens);
  EXPECT_EQ(index.find().length, NgramIndex::kEnough);
  tokens.push_back(2);
  index.follow(tokens);
  EXPECT_EQ(index.find().length, 0);
}

}  // namespace
}  // namespace ashlar::engine
