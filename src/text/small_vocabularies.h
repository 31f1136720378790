// Vocabularies of a few tokens, one for each model, for tests and fuzzing.
#pragma once

#include <string>

#include "text/byte_alphabet.h"
#include "text/tokenizer.h"

namespace ashlar::text {

inline void add_token(Vocabulary& vocabulary, std::string text, TokenType type = TokenType::normal, float score = 0) {
  vocabulary.tokens.push_back(std::move(text));
  vocabulary.types.push_back(type);
  vocabulary.scores.push_back(score);
}

// Ids 0 to 255 are the bytes; then "hello" and what it is merged from, "Ġhel",
// <|begin|> and <|end|>.
inline Vocabulary small_bpe() {
  Vocabulary vocabulary{.model = "gpt2", .pre = "gpt-2"};
  for (int byte = 0; byte < 256; ++byte) add_token(vocabulary, spelled(std::string(1, static_cast<char>(byte))));
  for (const char* merge : {"h e", "l o", "l l", "he l", "hel lo", "Ġ hel"}) {
    vocabulary.merges.emplace_back(merge);
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    add_token(vocabulary, joined);
  }
  vocabulary.bos = static_cast<TokenId>(vocabulary.tokens.size());
  add_token(vocabulary, "<|begin|>", TokenType::control);
  vocabulary.eos = static_cast<TokenId>(vocabulary.tokens.size());
  add_token(vocabulary, "<|end|>", TokenType::control);
  vocabulary.scores.clear();
  return vocabulary;
}

// <unk>, <s>, </s>, all bytes, and a few pieces with scores; for "llama" and "t5".
inline Vocabulary small_sentencepiece(std::string model = "llama", bool bytes = true) {
  Vocabulary vocabulary{.model = std::move(model)};
  vocabulary.unknown = 0, vocabulary.bos = 1, vocabulary.eos = 2;
  add_token(vocabulary, "<unk>", TokenType::unknown);
  add_token(vocabulary, "<s>", TokenType::control);
  add_token(vocabulary, "</s>", TokenType::control);
  for (int byte = 0; bytes && byte < 256; ++byte) {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    add_token(vocabulary,
              std::string("<0x") + kDigits[static_cast<std::size_t>(byte / 16)] +
                  kDigits[static_cast<std::size_t>(byte % 16)] + '>',
              TokenType::byte);
  }
  constexpr std::pair<const char*, float> kPieces[] = {
      {"▁", -4},   {"a", -5},    {"b", -6},    {"é", -7},  {"中", -8},  {"▁a", -1},   {"ab", -2},
      {"▁ab", -3}, {"▁▁", -2.5}, {"bb", -2.5}, {"aa", -2}, {"aab", -9}, {"▁abb", -10}};
  for (const auto& [text, score] : kPieces) add_token(vocabulary, text, TokenType::normal, score);
  return vocabulary;
}

inline Vocabulary small_wordpiece() {
  Vocabulary vocabulary{.model = "bert"};
  for (const char* text : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"})
    add_token(vocabulary, text, TokenType::control);
  vocabulary.padding = 0, vocabulary.unknown = 1, vocabulary.cls = 2, vocabulary.separator = 3, vocabulary.mask = 4;
  vocabulary.add_bos = vocabulary.add_eos = true;
  for (const char* text : {"▁un", "aff", "able", "▁hello", "▁he", "o", "▁,", "▁!", "▁中", "▁国", "▁e", "e", "▁i", "ll"})
    add_token(vocabulary, text);
  vocabulary.scores.clear();
  return vocabulary;
}

// "gemma4": characters with listed merges.
inline Vocabulary small_character_bpe() {
  Vocabulary vocabulary = small_sentencepiece("gemma4");
  vocabulary.scores.clear();
  vocabulary.add_space_prefix = false;
  add_token(vocabulary, "\n"), add_token(vocabulary, "\n\n");
  vocabulary.scores.clear();
  vocabulary.merges = {"▁ a", "a b", "a a", "▁ ▁", "b b", "▁a b", "aa b", "▁ab b"};
  return vocabulary;
}

}  // namespace ashlar::text
