// SentencePiece's tokenizer.model: a protobuf (sentencepiece_model.proto) of pieces, their scores and kinds, and
// what the trainer and the normalizer were told.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/tokenizer.h"

namespace ashlar::models {

// `bytes` of the file `name`, hostile. corrupt: broken protobuf, no pieces, an id out of range. unsupported: a model
// that is neither unigram nor BPE.
Result<text::Vocabulary> read_sentencepiece_model(std::string_view bytes, std::string_view name);

}  // namespace ashlar::models
