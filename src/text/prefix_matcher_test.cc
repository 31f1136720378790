#include "text/prefix_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

namespace ashlar::text {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(PrefixMatcher, FindsEveryEntryThatBeginsTheTextShortestFirst) {
  const PrefixMatcher matcher({{"a", 1}, {"abc", 2}, {"ab", 3}, {"b", 4}, {"abd", 5}});
  std::vector<std::pair<TokenId, std::size_t>> found;
  matcher.each("abcd", [&](TokenId id, std::size_t length) { found.emplace_back(id, length); });
  EXPECT_THAT(found, ElementsAre(Pair(1, 1), Pair(3, 2), Pair(2, 3)));
  EXPECT_EQ(matcher.longest("abx").id, 3);
  EXPECT_EQ(matcher.longest("xab").id, -1);
  EXPECT_EQ(matcher.longest("").id, -1);
  EXPECT_TRUE(PrefixMatcher().empty());
  EXPECT_EQ(PrefixMatcher().longest("a").id, -1);
}

TEST(PrefixMatcher, CandidateSkipsWhereNothingCanBegin) {
  const PrefixMatcher matcher({{"<s>", 1}, {"\n", 2}});
  EXPECT_EQ(matcher.candidate("ab<x<s>", 0), 4u);
  EXPECT_EQ(matcher.candidate("ab\n", 0), 2u);
  EXPECT_EQ(matcher.candidate("a\nb", 0), 1u);
  EXPECT_EQ(matcher.candidate("ab", 0), 2u);
  EXPECT_EQ(matcher.candidate("", 0), 0u);
}

TEST(PrefixMatcher, AgreesWithAPlainSearchOnRandomStrings) {
  std::mt19937 random(11);
  for (int round = 0; round < 50; ++round) {
    std::set<std::string> strings;
    const auto letters = 2 + random() % 30;
    const auto string = [&](std::size_t most) {
      std::string s;
      for (std::size_t n = 1 + random() % most; n > 0; --n) s += static_cast<char>(0xF0 + random() % letters);
      return s;
    };
    for (int i = 0; i < 200; ++i) strings.insert(string(5));
    std::vector<PrefixMatcher::Entry> entries;
    for (const std::string& s : strings) entries.push_back({s, static_cast<TokenId>(entries.size())});
    const PrefixMatcher matcher(entries);
    for (int i = 0; i < 200; ++i) {
      const std::string text = string(12);
      PrefixMatcher::Match expected;
      for (const PrefixMatcher::Entry& entry : entries)
        if (text.starts_with(entry.text) && entry.text.size() > expected.length)
          expected = {entry.id, entry.text.size()};
      EXPECT_EQ(matcher.longest(text).id, expected.id);
      EXPECT_EQ(matcher.longest(text).length, expected.length);
    }
  }
}

}  // namespace
}  // namespace ashlar::text
