// Cutting text into the words that byte-pair encoding then works on, one at a
// time. Every family of models was trained with a pattern of its own; GGUF names
// it in tokenizer.ggml.pre.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::text {

// Where the words go, in order; together they are the whole text.
struct WordSink {
  void* self;
  void (*take)(void* self, std::string_view word);
  void operator()(std::string_view word) const { take(self, word); }
};

struct PreTokenizer {
  std::string_view name;
  void (*split)(std::string_view text, WordSink words);  // any bytes; linear in their number
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  bool add_bos = false;        // what a file that does not say means
  // The text is characters with U+2581 for spaces, as SentencePiece has it, not
  // bytes in GPT-2's alphabet.
  bool raw_characters = false;
};

// "" is "default". unsupported: a name that nobody has described.
Result<const PreTokenizer*> find_pre_tokenizer(std::string_view name);

// All that are known, for tests and messages.
std::vector<const PreTokenizer*> pre_tokenizers();

}  // namespace ashlar::text
