// Hugging Face's tokenizer.json: https://huggingface.co/docs/tokenizers. Its pipeline of normalizer, pre-tokenizer,
// model, post-processor and decoder is recognised as one of the families that text/ knows; what is not recognised is
// refused by name rather than tokenized a little wrong.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/tokenizer.h"

namespace ashlar::models {

// `text` of the file `name`, hostile. corrupt: not such a file, ids that contradict each other. unsupported: a
// step that no family has.
Result<text::Vocabulary> read_tokenizer_json(std::string_view text, std::string_view name);

// The older pair: vocab.json, an object of ids by token, and merges.txt; byte-level BPE. `pre` as GGUF names it.
Result<text::Vocabulary> read_vocab_and_merges(std::string_view vocab, std::string_view merges, std::string_view pre,
                                               std::string_view name);

}  // namespace ashlar::models
