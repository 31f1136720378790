// What the families of SentencePiece (Kudo and Richardson 2018, arXiv:1808.06226)
// share: U+2581 for spaces, and bytes for characters that no token has.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/basic_tokenizer.h"

namespace ashlar::text {

class SentencePiece : public BasicTokenizer {
 protected:
  using BasicTokenizer::BasicTokenizer;

  void append_piece(TokenId id, std::string& bytes) const override;

  // A token that may come out of text: not a control token, not a byte's name.
  bool matches_text(TokenId id) const { return type(id) == TokenType::normal || type(id) == TokenType::unused; }

  // Appends what stands for text that no token covers: its bytes, or, where the
  // vocabulary lacks them, one unknown token for however many such texts in a row.
  void append_bytes(std::string_view text, std::vector<TokenId>& out) const;
};

// Appends `text` with spaces as U+2581.
void append_escaped(std::string_view text, std::string& out);

}  // namespace ashlar::text
