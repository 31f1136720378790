#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <thread>

#include "base/utf8.h"
#include "text/small_vocabularies.h"

namespace ashlar::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Ids = std::vector<TokenId>;

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr EncodeOptions kSpecial{.add_special = false, .parse_special = true};

std::shared_ptr<const Tokenizer> make(Vocabulary vocabulary) {
  auto tokenizer = Tokenizer::create(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *tokenizer;
}

std::vector<std::string> pieces(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = kPlain) {
  std::vector<std::string> all;
  for (const TokenId id : tokenizer.encode(text, options)) all.emplace_back(tokenizer.piece(id, true));
  return all;
}

std::string error_of(Vocabulary vocabulary) {
  const auto tokenizer = Tokenizer::create(std::move(vocabulary));
  return tokenizer ? "none" : std::string(name(tokenizer.error().code)) + ": " + tokenizer.error().message;
}

TEST(ByteLevelBpe, MergesTheBestPairFirst) {
  const auto tokenizer = make(small_bpe());
  EXPECT_THAT(pieces(*tokenizer, "hello hel"), ElementsAre("hello", " hel"));
  EXPECT_THAT(pieces(*tokenizer, " hell"), ElementsAre(" ", "he", "ll"));  // "l l" is better than "he l"
  EXPECT_THAT(pieces(*tokenizer, "lohe"), ElementsAre("lo", "he"));
}

TEST(ByteLevelBpe, AnyBytesComeBackAsTheyWere) {
  const auto tokenizer = make(small_bpe());
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::string bytes;
    for (auto n = random() % 50; n > 0; --n) bytes += static_cast<char>(random());
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes, kPlain)), bytes);
  }
}

TEST(ByteLevelBpe, ComposesTextWhereTheVocabularyAsks) {
  Vocabulary asks = small_bpe();
  asks.compose = true;
  const auto composing = make(std::move(asks)), plain = make(small_bpe());
  const std::pair<const char*, const char*> cases[] = {
      {"e\u0301", "\u00E9"},                                       // e and an accent
      {"\u212B", "\u00C5"},                                        // the unit of length is the letter
      {"\u1112\u1161\u11AB", "\uD55C"},                            // Hangul by its parts
      {"\u304B\u3099 \u304C", "\u304C \u304C"},                    // kana and its mark
      {"a\u0323\u0307", "\u1EA1\u0307"},                           // marks in order
      {"hello \u4F60\u597D \uFF21", "hello \u4F60\u597D \uFF21"},  // compatibility stays
  };
  for (const auto& [text, composed] : cases) {
    EXPECT_EQ(composing->encode(text, kPlain), plain->encode(composed, kPlain)) << text;
    EXPECT_EQ(composing->encode(composed, kPlain), plain->encode(composed, kPlain)) << text;
  }
  EXPECT_EQ(composing->encode("e\u0301\xFF", kPlain), plain->encode("e\u0301\xFF", kPlain)) << "no text";
}

TEST(ByteLevelBpe, AByteWithoutATokenGoesOrIsReplacedWhereUtf8HasNone) {
  Vocabulary vocabulary = small_bpe();
  vocabulary.tokens[0xF5] = "unused";
  vocabulary.tokens[0x1C] = "unused too";
  const auto tokenizer = make(vocabulary);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xF5z", kPlain)), "a\uFFFDz");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\x1Cz", kPlain)), "az");
}

TEST(ByteLevelBpe, AMergeThatLeadsToNoTokenFallsBackToBytes) {
  Vocabulary vocabulary = small_bpe();
  vocabulary.merges.insert(vocabulary.merges.begin(), "h h");
  const auto tokenizer = make(vocabulary);
  EXPECT_THAT(pieces(*tokenizer, "hhe"), ElementsAre("h", "h", "e"));
}

TEST(ByteLevelBpe, IgnoringMergesAWordThatIsATokenIsThatToken) {
  Vocabulary vocabulary = small_bpe();
  vocabulary.tokens.push_back("oleh");  // no merges lead there
  vocabulary.types.push_back(TokenType::normal);
  vocabulary.pre = "gpt-2";
  EXPECT_THAT(pieces(*make(vocabulary), "oleh"), ElementsAre("o", "l", "e", "h"));
  vocabulary.ignore_merges = true;
  EXPECT_THAT(pieces(*make(vocabulary), "oleh"), ElementsAre("oleh"));
  vocabulary.pre = "llama-bpe";
  vocabulary.ignore_merges = std::nullopt;
  EXPECT_THAT(pieces(*make(vocabulary), "oleh"), ElementsAre("oleh"));
  vocabulary.ignore_merges = false;
  EXPECT_THAT(pieces(*make(vocabulary), "oleh"), ElementsAre("o", "l", "e", "h"));
}

TEST(ByteLevelBpe, AWordOfAMillionLettersIsNoTrouble) {
  const auto tokenizer = make(small_bpe());
  std::string text(1'000'000, 'l');
  text += "o";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, kPlain)), text);
}

TEST(ByteLevelBpe, ManyThreadsShareOne) {
  const auto tokenizer = make(small_bpe());
  const std::string text = "hello hell lohe helo hello";
  const Ids expected = tokenizer->encode(text, kPlain);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 100; ++round) EXPECT_EQ(tokenizer->encode(text, kPlain), expected);
    });
}

TEST(Tokenizer, ControlTokensInTextCountOnlyWhenAsked) {
  const auto tokenizer = make(small_bpe());
  EXPECT_THAT(pieces(*tokenizer, "h<|end|>h", kSpecial), ElementsAre("h", "<|end|>", "h"));
  EXPECT_EQ(tokenizer->encode("h<|end|>h", kPlain).size(), 9u);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("h<|end|>h", kSpecial)), "hh");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("h<|end|>h", kSpecial), true), "h<|end|>h");
}

TEST(Tokenizer, UserDefinedTokensAlwaysCountTheLongestFirst) {
  Vocabulary vocabulary = small_bpe();
  for (const char* token : {"<tool>", "<tool><tool>"}) {
    vocabulary.tokens.push_back(token);
    vocabulary.types.push_back(TokenType::user_defined);
  }
  EXPECT_THAT(pieces(*make(vocabulary), "<tool><tool><tool>h"), ElementsAre("<tool><tool>", "<tool>", "h"));
}

TEST(Tokenizer, ATokenThatEndsAnswersIsControlWhateverTheFileSays) {
  Vocabulary vocabulary = small_bpe();
  vocabulary.tokens.push_back("<|im_end|>");
  vocabulary.types.push_back(TokenType::user_defined);
  const auto tokenizer = make(vocabulary);
  EXPECT_TRUE(tokenizer->is_control(tokenizer->find("<|im_end|>")));
  EXPECT_GT(tokenizer->encode("<|im_end|>", kPlain).size(), 1u);
  EXPECT_EQ(tokenizer->encode("<|im_end|>", kSpecial).size(), 1u);
}

TEST(Tokenizer, BeginAndEndAreAddedAsTheModelWantsThem) {
  Vocabulary vocabulary = small_bpe();
  vocabulary.add_bos = true;
  vocabulary.add_eos = true;
  const auto tokenizer = make(vocabulary);
  const Ids ids = tokenizer->encode("h");
  EXPECT_THAT(ids, ElementsAre(vocabulary.bos, 'h', vocabulary.eos));
  EXPECT_TRUE(tokenizer->is_end(vocabulary.eos));
  EXPECT_FALSE(tokenizer->is_end('h'));
  EXPECT_FALSE(tokenizer->is_end(-1));
  EXPECT_THAT(make(small_bpe())->encode(""), IsEmpty());
}

TEST(Tokenizer, OutOfRangeIdsHaveNoPiece) {
  const auto tokenizer = make(small_bpe());
  EXPECT_EQ(tokenizer->piece(-1), "");
  EXPECT_EQ(tokenizer->piece(tokenizer->size()), "");
  EXPECT_EQ(tokenizer->piece(std::numeric_limits<TokenId>::max(), true), "");
  const Ids ids{'h', 1 << 30, -5, 'e'};
  EXPECT_EQ(tokenizer->decode(ids), "he");
  EXPECT_EQ(tokenizer->find("no such token"), -1);
  EXPECT_FALSE(tokenizer->is_control(1 << 30));
}

TEST(Tokenizer, AVocabularyThatContradictsItselfIsRefused) {
  EXPECT_THAT(error_of({.model = "gpt2"}), HasSubstr("corrupt: the vocabulary has no tokens"));
  EXPECT_THAT(error_of({.model = "wordbag", .tokens = {"a"}}), HasSubstr("unsupported"));
  const auto with = [](auto change) {
    Vocabulary vocabulary = small_bpe();
    change(vocabulary);
    return error_of(vocabulary);
  };
  EXPECT_THAT(with([](Vocabulary& v) { v.pre = "martian"; }), HasSubstr("unsupported"));
  EXPECT_THAT(with([](Vocabulary& v) { v.tokens.push_back("a"); }), HasSubstr("token types for"));
  EXPECT_THAT(with([](Vocabulary& v) { v.scores = {1.0f}; }), HasSubstr("scores for"));
  EXPECT_THAT(with([](Vocabulary& v) { v.tokens.back() = v.tokens.front(); }), HasSubstr("same token twice"));
  EXPECT_THAT(with([](Vocabulary& v) { v.bos = 100000; }), HasSubstr("bos"));
  EXPECT_THAT(with([](Vocabulary& v) { v.unknown = -7; }), HasSubstr("unknown"));
  EXPECT_THAT(with([](Vocabulary& v) { v.end_of_generation = {-2}; }), HasSubstr("ends answers"));
  EXPECT_THAT(with([](Vocabulary& v) { v.merges.push_back("alone"); }), HasSubstr("merge"));
  EXPECT_THAT(with([](Vocabulary& v) { v.merges.push_back(""); }), HasSubstr("merge"));
  EXPECT_THAT(with([](Vocabulary& v) { v.merges.push_back("a "); }), HasSubstr("merge"));
  EXPECT_THAT(with([](Vocabulary& v) { v.tokens.front() = std::string(5000, 'x'); }), HasSubstr("5000 bytes"));
  EXPECT_THAT(with([](Vocabulary& v) {
                v.model = "llama";
                v.scores.assign(v.tokens.size(), std::numeric_limits<float>::quiet_NaN());
              }),
              HasSubstr("no number"));
  EXPECT_THAT(with([](Vocabulary& v) { v.model = "llama"; }), HasSubstr("no scores"));
  EXPECT_THAT(with([](Vocabulary& v) { v.model = "t5"; }), HasSubstr("no scores"));
  EXPECT_THAT(with([](Vocabulary& v) { v.model = "bert"; }), HasSubstr("no unknown token"));
}

TEST(Tokenizer, HolesInTheNumberingAreNoDuplicates) {
  Vocabulary vocabulary = small_bpe();
  for (int i = 0; i < 2; ++i) {
    vocabulary.tokens.emplace_back();
    vocabulary.types.push_back(TokenType::unused);
  }
  const auto tokenizer = make(vocabulary);
  EXPECT_THAT(pieces(*tokenizer, "hello"), ElementsAre("hello"));
  EXPECT_EQ(tokenizer->find(""), -1);
}

TEST(StreamDecoder, HoldsACharacterBackUntilItIsWhole) {
  const auto tokenizer = make(small_bpe());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(0xE4), "");
  EXPECT_EQ(decoder.push(0xB8), "");
  EXPECT_EQ(decoder.push(0xAD), "中");
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push('b'), "\uFFFDb");
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, AllThatItGivesIsUtf8AndTogetherTheWholeText) {
  const auto tokenizer = make(small_bpe());
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    std::string bytes, streamed;
    StreamDecoder decoder(*tokenizer);
    for (auto n = random() % 40; n > 0; --n) {
      const auto byte =
          static_cast<unsigned char>(random() % 3 == 0 ? random() : "\xE4\xB8\xAD\xF0\x9F\x98\x80z"[random() % 8]);
      bytes += static_cast<char>(byte);
      const std::string text = decoder.push(byte);
      EXPECT_TRUE(utf8::is_valid(text));
      streamed += text;
    }
    streamed += decoder.finish();
    EXPECT_EQ(streamed, utf8::sanitize(bytes));
  }
}

TEST(StreamDecoder, DropsTheSpaceOfATextsBeginningOnly) {
  const auto tokenizer = make(small_sentencepiece());
  const Ids ids = tokenizer->encode("ab ab", kPlain);
  for (const bool keep : {false, true}) {
    StreamDecoder decoder(*tokenizer, false, keep);
    std::string text;
    for (const TokenId id : ids) text += decoder.push(id);
    EXPECT_EQ(text, keep ? " ab ab" : "ab ab");
  }
}

}  // namespace
}  // namespace ashlar::text
