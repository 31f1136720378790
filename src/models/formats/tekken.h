// tekken.json, as Mistral publishes its newer tokenizers: byte-level BPE whose merges are told by the order of its
// tokens alone, as in tiktoken.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/tokenizer.h"

namespace ashlar::models {

// `text` of the file `name`, hostile. corrupt: not such a file. unsupported: words cut by another pattern. too_large:
// tokens whose merges would take too long to find.
Result<text::Vocabulary> read_tekken(std::string_view text, std::string_view name);

}  // namespace ashlar::models
