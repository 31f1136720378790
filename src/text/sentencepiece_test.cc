#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "text/small_vocabularies.h"
#include "text/tokenizer.h"

namespace ashlar::text {
namespace {

using ::testing::ElementsAre;

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr EncodeOptions kSpecial{.add_special = false, .parse_special = true};

std::shared_ptr<const Tokenizer> make(Vocabulary vocabulary) {
  auto tokenizer = Tokenizer::create(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *tokenizer;
}

std::vector<std::string> tokens(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = kPlain) {
  std::vector<std::string> all;
  for (const TokenId id : tokenizer.encode(text, options))
    all.push_back(tokenizer.vocabulary().tokens[static_cast<std::size_t>(id)]);
  return all;
}

TEST(SentencePieceBpe, JoinsTheNeighboursOfTheHighestScore) {
  const auto tokenizer = make(small_sentencepiece());
  EXPECT_THAT(tokens(*tokenizer, "ab"), ElementsAre("▁ab"));
  EXPECT_THAT(tokens(*tokenizer, "aab"), ElementsAre("▁a", "ab"));  // not "▁", "aab": "▁a" came first
  EXPECT_THAT(tokens(*tokenizer, "ab  ab"), ElementsAre("▁ab", "▁", "▁ab"));
}

TEST(SentencePieceBpe, CharactersWithoutATokenAreBytes) {
  const auto tokenizer = make(small_sentencepiece());
  EXPECT_THAT(tokens(*tokenizer, "aü"), ElementsAre("▁a", "<0xC3>", "<0xBC>"));
  EXPECT_THAT(tokens(*tokenizer, "\xFF"), ElementsAre("▁", "<0xFF>"));
}

TEST(SentencePieceBpe, WithoutByteTokensTheyAreOneUnknown) {
  const auto tokenizer = make(small_sentencepiece("llama", false));
  EXPECT_THAT(tokens(*tokenizer, "aüöa"), ElementsAre("▁a", "<unk>", "a"));
}

TEST(SentencePieceBpe, ASpaceMayGoBeforeTheTextAlone) {
  for (const char* model : {"llama", "t5"}) {
    Vocabulary vocabulary = small_sentencepiece(model);
    vocabulary.prefix_once = true;
    const auto tokenizer = make(vocabulary);
    EXPECT_THAT(tokens(*tokenizer, "a</s>a", kSpecial), ElementsAre("▁a", "</s>", "a"));
    EXPECT_THAT(tokens(*tokenizer, "</s>a", kSpecial), ElementsAre("</s>", "a"));
    for (const char* text : {"a</s>a", "a</s> a", "</s> a", "</s>a", "a"}) {
      const auto ids = tokenizer->encode(text, kSpecial);
      EXPECT_EQ(tokenizer->decode(ids, true), text);
      StreamDecoder stream(*tokenizer, true, false);
      std::string streamed;
      for (const TokenId id : ids) streamed += stream.push(id);
      EXPECT_EQ(streamed, text);
    }
  }
}

TEST(SentencePieceBpe, ASpaceGoesBeforeTheTextAndAfterSpecialTokens) {
  Vocabulary vocabulary = small_sentencepiece();
  EXPECT_THAT(tokens(*make(vocabulary), "a</s>a", kSpecial), ElementsAre("▁a", "</s>", "▁a"));
  vocabulary.add_space_prefix = false;
  EXPECT_THAT(tokens(*make(vocabulary), "a</s>a", kSpecial), ElementsAre("a", "</s>", "a"));
  EXPECT_THAT(tokens(*make(vocabulary), "</s>"), ElementsAre("<0x3C>", "<0x2F>", "<0x73>", "<0x3E>"));
}

TEST(SentencePieceBpe, DecodingUndoesEncodingWhateverTheBytes) {
  std::mt19937 random(4);
  for (const bool prefix : {true, false}) {
    Vocabulary vocabulary = small_sentencepiece();
    vocabulary.add_space_prefix = prefix;
    const auto tokenizer = make(vocabulary);
    for (int round = 0; round < 300; ++round) {
      std::string text;
      for (auto n = random() % 30; n > 0; --n)
        text += random() % 4 == 0 ? static_cast<char>(random()) : "ab \n\xC3"[random() % 5];
      if (text.find("\xE2\x96\x81") != std::string::npos) continue;  // U+2581 in a text is a space
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, kPlain)), text);
    }
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("a</s>a</s> a", kSpecial), true), "a</s>a</s> a");
  }
}

TEST(Unigram, TakesTheBestSumOfScores) {
  Vocabulary vocabulary = small_sentencepiece("t5");
  vocabulary.add_space_prefix = false;
  const auto tokenizer = make(vocabulary);
  EXPECT_THAT(tokens(*tokenizer, "aab"), ElementsAre("a", "ab"));    // -7; "aa", "b" is -8, "aab" is -9
  EXPECT_THAT(tokens(*tokenizer, " abb"), ElementsAre("▁a", "bb"));  // -3.5
  EXPECT_THAT(tokens(*tokenizer, "aüa"), ElementsAre("a", "<0xC3>", "<0xBC>", "a"));
}

TEST(Unigram, UnknownCharactersInARowAreOneUnknownToken) {
  const auto tokenizer = make(small_sentencepiece("t5", false));
  EXPECT_THAT(tokens(*tokenizer, "aüöa"), ElementsAre("▁a", "<unk>", "a"));
}

TEST(Unigram, ExtraSpacesGoWhereTheModelSaysSo) {
  Vocabulary vocabulary = small_sentencepiece("t5");
  EXPECT_THAT(tokens(*make(vocabulary), " a  b "), ElementsAre("▁", "▁a", "▁▁", "b", "▁"));
  vocabulary.remove_extra_whitespaces = true;
  EXPECT_THAT(tokens(*make(vocabulary), " a  b "), ElementsAre("▁a", "▁", "b"));
  EXPECT_THAT(tokens(*make(vocabulary), "   "), ElementsAre());
}

TEST(CharacterBpe, MergesCharactersByTheList) {
  const auto tokenizer = make(small_character_bpe());
  EXPECT_THAT(tokens(*tokenizer, "ab ab"), ElementsAre("ab", "▁ab"));
  EXPECT_THAT(tokens(*tokenizer, "aab"), ElementsAre("a", "ab"));
  EXPECT_THAT(tokens(*tokenizer, "a\n\nü"), ElementsAre("a", "\n\n", "<0xC3>", "<0xBC>"));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" ab  ü\n", kPlain)), " ab  ü\n");
}

}  // namespace
}  // namespace ashlar::text
