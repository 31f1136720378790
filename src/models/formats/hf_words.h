// Which of a Hugging Face folder's files says its tokens, and what they are.
#pragma once

#include "base/result.h"
#include "models/formats/hf_text_files.h"

namespace ashlar::models {

struct Words {
  text::Vocabulary vocabulary;
  bool says_specials = false;  // and what is put around a text
};

// tokenizer.json, else tekken.json, tokenizer.model, sentencepiece.bpe.model, vocab.json with merges.txt, or vocab.txt;
// with the added tokens that other files list. not_found: none of them. unsupported: a class of tokenizers that reads
// such a file otherwise. corrupt: as the readers of those.
Result<Words> read_words(const TextFolder& folder, const TextSettings& settings);

}  // namespace ashlar::models
