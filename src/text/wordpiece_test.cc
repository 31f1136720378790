#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/small_vocabularies.h"
#include "text/tokenizer.h"

namespace ashlar::text {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> tokens(std::string_view text, EncodeOptions options = {.add_special = false},
                                Vocabulary vocabulary = small_wordpiece()) {
  const auto tokenizer = Tokenizer::create(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  std::vector<std::string> all;
  for (const TokenId id : (*tokenizer)->encode(text, options))
    all.push_back((*tokenizer)->vocabulary().tokens[static_cast<std::size_t>(id)]);
  return all;
}

TEST(WordPiece, TakesTheLongestPiecesOfAWord) {
  EXPECT_THAT(tokens("unaffable hello"), ElementsAre("▁un", "aff", "able", "▁hello"));
  EXPECT_THAT(tokens("unaffablex"), ElementsAre("[UNK]"));
}

TEST(WordPiece, LowersCaseAndTakesAccentsOff) {
  EXPECT_THAT(tokens("HELLO Hé"), ElementsAre("▁hello", "▁he"));
  EXPECT_THAT(tokens("İll"), ElementsAre("▁i", "ll"));
}

TEST(WordPiece, AVocabularyWithCapitalsKeepsThem) {
  Vocabulary vocabulary = small_wordpiece();
  vocabulary.tokens.push_back("▁Hello");
  vocabulary.types.push_back(TokenType::normal);
  EXPECT_THAT(tokens("Hello hello HELLO", {.add_special = false}, vocabulary),
              ElementsAre("▁Hello", "▁hello", "[UNK]"));
}

TEST(WordPiece, MayBeToldOfCapitalsAndAccents) {
  Vocabulary vocabulary = small_wordpiece();
  for (const char* text : {"▁Hello", "▁h\u00E9", "▁H\u00E9", "▁He"}) {
    vocabulary.tokens.emplace_back(text);
    vocabulary.types.push_back(TokenType::normal);
  }
  const struct {
    std::optional<bool> lower, strip;
    const char *hello, *he;  // of "Hello" and of "Hé"
  } cases[] = {{{}, {}, "▁Hello", "▁H\u00E9"},       {true, {}, "▁hello", "▁he"},
               {true, false, "▁hello", "▁h\u00E9"},  {false, true, "▁Hello", "▁He"},
               {false, false, "▁Hello", "▁H\u00E9"}, {{}, true, "▁Hello", "▁He"}};
  for (const auto& one : cases) {
    vocabulary.lower_case = one.lower, vocabulary.strip_accents = one.strip;
    EXPECT_THAT(tokens("Hello H\u00E9", {.add_special = false}, vocabulary), ElementsAre(one.hello, one.he));
  }
}

TEST(WordPiece, PunctuationAndChineseCharactersStandAlone) {
  EXPECT_THAT(tokens("hello,hello!中国"), ElementsAre("▁hello", "▁,", "▁hello", "▁!", "▁中", "▁国"));
}

TEST(WordPiece, ControlCharactersAndBrokenBytesGo) {
  EXPECT_THAT(tokens(std::string_view("he\0\xFF\u200Bllo", 10)), ElementsAre("▁hello"));
  EXPECT_THAT(tokens("he\tllo"), ElementsAre("▁he", "[UNK]"));
}

TEST(WordPiece, AWordOfMoreThanAHundredCharactersIsUnknown) {
  const std::string e(100, 'e');
  EXPECT_EQ(tokens(e).size(), 100u);
  EXPECT_THAT(tokens(e + "e"), ElementsAre("[UNK]"));
}

TEST(WordPiece, ASentenceMarkIsNoBeginningOfAPiece) { EXPECT_THAT(tokens("un▁un"), ElementsAre("[UNK]")); }

TEST(WordPiece, ClsAndSepGoAround) {
  EXPECT_THAT(tokens("hello", {}), ElementsAre("[CLS]", "▁hello", "[SEP]"));
  EXPECT_THAT(tokens("he[MASK]", {.add_special = false, .parse_special = true}), ElementsAre("▁he", "[MASK]"));
}

TEST(WordPiece, DecodingPutsSpacesBetweenWords) {
  const auto tokenizer = *Tokenizer::create(small_wordpiece());
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("unaffable HELLO")), "unaffable hello");
}

}  // namespace
}  // namespace ashlar::text
