// Beginnings of prompts: where they end in the tokens, and what the cache's book says of them.
#include "engine/prefixes.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>

#include "base/stable_hash.h"
#include "engine/fakes_for_test.h"
#include "engine/prefix_book.h"
#include "engine/prefix_marks.h"

namespace ashlar::engine {
namespace {

using Change = CachedPrefixes::Change;
using Copy = std::multimap<std::uint64_t, int>;

std::vector<int> ends_of(const std::vector<PrefixMark>& marks) {
  std::vector<int> out;
  for (const PrefixMark& mark : marks) out.push_back(mark.tokens);
  return out;
}

Prompt chat_of(const char* messages) {
  return {.input = Chat{.messages = std::make_shared<const Json>(Json::parse(messages))}};
}

std::vector<PrefixMark> marks_of(const Prompt& prompt, const std::string& rendered) {
  const fake::Tokenizer tokenizer;
  return prefix_marks(prompt, 7, rendered, tokenizer.encode(rendered, {.add_special = false}), tokenizer);
}

TEST(Prefixes, KeysSayAllThatStandsBefore) {
  const std::string text(1000, 'x');
  const auto keys = prefix_keys(text, 1);
  EXPECT_EQ(keys.size(), 1000 / kPrefixBytes);
  EXPECT_EQ(std::set<std::uint64_t>(keys.begin(), keys.end()).size(), keys.size());
  EXPECT_NE(prefix_keys(text, 2).front(), keys.front()) << "another tenant's are others";
  std::string other = text;
  other[kPrefixBytes + 1] = 'y';
  EXPECT_EQ(prefix_keys(other, 1)[0], keys[0]);
  EXPECT_NE(prefix_keys(other, 1)[2], keys[2]);
  EXPECT_EQ(prefix_keys(std::string(kPrefixBytes * (kMostPrefixes + 9), 'x'), 1).size(), kMostPrefixes);
}

TEST(Prefixes, AMarkStandsAtTheLastWholeBlockOfItsText) {
  const std::string text(600, 'x');
  // The key's text begins with "user\n".
  EXPECT_EQ(ends_of(marks_of({.input = text}, text)), (std::vector{112, 240, 368, 496}));
  const Prompt chat = chat_of(R"([{"role":"user","content":"  hello  "},{"role":"user","content":[{"type":"text","text":
      "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"}]}])");
  const auto content = Json::parse(R"(["hello"])")[0].get<std::string>();
  const std::string last = text_of(chat, 1000).substr(20);
  const std::string shown = last.substr(0, last.size() - 1);
  // The template wrote 1,000 bytes of its own, and trimmed the first message: the 128 bytes of the key end behind 108
  // of the second.
  EXPECT_EQ(ends_of(marks_of(chat, std::string(1000, '!') + content + "<|end|>" + shown)),
            (std::vector{(1000 + 5 + 7 + 108) / 16 * 16}));
  EXPECT_TRUE(marks_of(chat, std::string(1000, '!') + content).empty()) << "what is not shown is not marked";
  EXPECT_TRUE(marks_of(chat, "").empty());
  EXPECT_TRUE(marks_of(chat_of("[]"), "x").empty());
}

TEST(Prefixes, IdsAreMarkedAsTheyAre) {
  std::vector<std::int32_t> ids(200, 'x');
  EXPECT_EQ(ends_of(marks_of({.input = ids}, std::string(200, 'x'))).back(), (6 * 128 - 5) / 4 / 16 * 16);
}

void replay(const CachedPrefixes::News& news, Copy& copy) {
  if (news.whole) copy.clear();
  for (const Change& change : news.changes)
    if (change.tokens > 0)
      copy.emplace(change.key, change.tokens);
    else if (const auto found = copy.find(change.key); found != copy.end())
      copy.erase(found);
}

TEST(PrefixBook, WhoFollowsItsNewsHasWhatItHas) {
  std::mt19937 random{5};
  constexpr int kBlocks = 300;
  PrefixBook book(kBlocks);
  std::map<int, Change> truth;  // by block
  Copy copy;
  CachedPrefixes::News last;
  int wholes = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<PrefixBook::Note> notes;
    for (int i = static_cast<int>(random() % (round % 50 == 0 ? 9000 : 30)); i > 0; --i) {
      const int block = static_cast<int>(random() % kBlocks);
      const bool gone = random() % 3 == 0;
      const Change change{.key = random() % 100, .tokens = 16 * (1 + static_cast<int>(random() % 9))};
      notes.push_back({.block = block, .key = gone ? 0 : change.key, .tokens = gone ? 0 : change.tokens});
      if (gone)
        truth.erase(block);
      else
        truth[block] = change;
    }
    ASSERT_TRUE(book.write(notes, false));
    last = book.news(last.book, last.sequence, 1 << 20);
    wholes += last.whole ? 1 : 0;
    replay(last, copy);
    Copy expected;
    for (const auto& [block, change] : truth) expected.emplace(change.key, change.tokens);
    std::vector<std::pair<std::uint64_t, int>> a(copy.begin(), copy.end()), b(expected.begin(), expected.end());
    std::ranges::sort(a);
    std::ranges::sort(b);
    ASSERT_EQ(a.size(), b.size());
    EXPECT_TRUE(
        std::ranges::equal(a, b, {}, &std::pair<std::uint64_t, int>::first, &std::pair<std::uint64_t, int>::first));
    ASSERT_EQ(book.size(), truth.size());
  }
  EXPECT_GT(wholes, 1) << "a gap gives the whole";
  EXPECT_LT(wholes, 20);
  const auto cut = book.news(0, 0, 3);
  EXPECT_TRUE(cut.whole && cut.cut);
  EXPECT_EQ(cut.changes.size(), 3U);
  EXPECT_TRUE(book.news(last.book, last.sequence + 1, 10).whole) << "of the future";
  EXPECT_TRUE(PrefixBook(4).news(last.book, last.sequence, 10).whole) << "another book";
}

TEST(PrefixBook, ItsReadersAndItsWriterMeet) {
  PrefixBook book(64);
  std::atomic<bool> stop = false;
  std::jthread reader([&] {
    std::vector<std::uint64_t> keys(200);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
    while (!stop) {
      EXPECT_GE(book.cached(keys), 0);
      static_cast<void>(book.news(0, 0, 100));
    }
  });
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const PrefixBook::Note note{.block = i % 64, .key = static_cast<std::uint64_t>(i % 200), .tokens = 16};
    refused += book.write({&note, 1}, i % 2 == 0) ? 0 : 1;
  }
  stop = true;
  EXPECT_LE(refused, 10'000);
}

// What the book says of a prompt, held against what the engine then finds in its cache, which is far too small.
TEST(CachedPrefixes, ArePromptlyWhatTheEngineFinds) {
  fake::House house({.options = {.kv_cache_memory = fake::blocks(150)}, .context = 1024});
  std::mt19937 random{11};
  Copy copy;
  CachedPrefixes::News last;
  int found = 0, evicted = 0;
  std::map<std::uint64_t, bool> was;  // keys that stood in the book
  for (int i = 0; i < 400; ++i) {
    const std::string tenant(1, static_cast<char>('s' + random() % 3));
    std::string prompt(64 * (1 + random() % 12), static_cast<char>('a' + random() % 3));
    prompt += std::to_string(i);
    Request asked = fake::request(prompt, 1 + static_cast<int>(random() % 40));
    asked.tenant = tenant;
    asked.prefix_salt = stable_hash(tenant);
    const auto keys = prefix_keys(asked.prompt, *asked.prefix_salt);
    const auto cache = house.engine->cached_prefixes("");
    const int told = cache->cached(keys);
    last = cache->news(last.book, last.sequence, 1 << 20);
    replay(last, copy);
    int by_copy = 0;
    for (const std::uint64_t key : keys)
      if (const auto known = copy.find(key); known != copy.end()) by_copy = known->second;
    EXPECT_EQ(by_copy, told) << "who follows the news knows as much";
    for (const std::uint64_t key : keys) evicted += was[key] && !copy.contains(key) ? 1 : 0;
    const auto sink = house.ask(asked);
    const int cached = sink->started->cached_tokens;
    EXPECT_LE(told, cached) << prompt.size();
    EXPECT_LT(cached - told, static_cast<int>(kPrefixBytes) + 2 * models::kBlockTokens) << prompt.size();
    found += told > 0 ? 1 : 0;
    for (const std::uint64_t key : keys) was[key] = cache->cached({&key, 1}) > 0;
  }
  EXPECT_GT(found, 50);
  EXPECT_GT(evicted, 20) << "nothing was ever evicted";
}

TEST(CachedPrefixes, AreAskedForOrNotNoted) {
  fake::House house({.context = 1024});
  const auto cache = house.engine->cached_prefixes("");
  house.ask(fake::request(std::string(500, 'q'), 4));
  EXPECT_EQ(cache->size(), 0U) << "nobody gave a salt";
  Request asked = fake::request(std::string(500, 'q'), 4);
  asked.prefix_salt = 3;
  house.ask(asked);
  EXPECT_GT(cache->size(), 0U) << "what was cached already is marked now";
  EXPECT_EQ(cache->cached(prefix_keys(asked.prompt, 3)), 368);
  EXPECT_EQ(cache->cached(prefix_keys(asked.prompt, 4)), 0);
}

}  // namespace
}  // namespace ashlar::engine
