// How a query and a document become the one text that a reranker reads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// Immutable; any thread.
class PairForm {
 public:
  // `pattern`: text with "{query}" and "{document}", whose control tokens are such; those that a query or a document
  // writes are plain text. Empty: the two parts with the model's own separators, as encoders were trained:
  // [CLS] query [SEP] document [SEP], or <s> query </s></s> document </s>.
  // invalid: a pattern that lacks one of the two, or has them too often, or is too long; unsupported: no pattern, and a
  // vocabulary without separators.
  static Result<PairForm> create(std::shared_ptr<const text::Tokenizer> tokenizer, std::string_view pattern);

  struct Pair {
    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> types;  // of each token: 0 up to the document, 1 from there on; empty with a pattern
    bool cut = false;                 // to `most`
  };
  // The document is cut to `document_tokens` if it has more (-1: not). Then, until the pair has at most `most` (-1: not
  // so), with a pattern the document is; with separators the longer of the two, and both where half of `most` is too
  // little for either, as such models' own tokenizers do it ("longest_first").
  Pair write(std::string_view query, std::string_view document, int document_tokens, int most) const;

 private:
  // A stretch of the pattern: a control token, or text with placeholders.
  struct Part {
    std::int32_t id = -1;
    std::string text;
  };

  explicit PairForm(std::shared_ptr<const text::Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}
  void take_pattern(std::string_view pattern);
  std::vector<std::int32_t> fill(std::string_view query, std::string_view document) const;
  Pair with_separators(std::vector<std::int32_t> query, std::vector<std::int32_t> document, int most) const;
  std::vector<std::int32_t> encode(std::string_view text) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<Part> parts_;  // empty: separators
  std::int32_t begin_ = -1, separator_ = -1;
  int between_ = 1;  // separators between the two
};

// The pattern of rerankers that say yes or no (arXiv:2506.05176).
std::string_view yes_no_pattern();

}  // namespace ashlar::engine
