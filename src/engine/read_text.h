// From the texts of a request to the tokens that an encoder reads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "engine/embedder.h"
#include "engine/pair_form.h"
#include "engine/reranker.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// Which of a request's texts it is, and what the model reads of it.
struct ReadText {
  std::size_t index = 0;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> types;  // of each token, or empty: all 0
  bool cut = false;                 // a query and a document, to what the model reads or the request allows
};

// Immutable; any thread.
class TextTokens {
 public:
  // `context`: the most tokens of a text. `pair_form`: where pairs are read.
  TextTokens(std::shared_ptr<const text::Tokenizer> tokenizer, std::optional<PairForm> pair_form, int context)
      : tokenizer_(std::move(tokenizer)), pair_form_(std::move(pair_form)), context_(context) {}

  // One input, or one document with its query. invalid: no tokens, or one that is not in the vocabulary; too_large:
  // over the context, with both numbers.
  Result<ReadText> text(const EmbedRequest& request, std::size_t index) const;
  Result<ReadText> pair(const RerankRequest& request, std::size_t index) const;

 private:
  Status check(const ReadText& text, std::string_view what) const;
  // What `truncate` of a request comes to; -1: nothing is cut.
  int most(int truncate) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::optional<PairForm> pair_form_;
  int context_;
};

}  // namespace ashlar::engine
