// What every family of tokenizers shares: the checked vocabulary, the bytes of
// each token, special tokens found in the text, and decoding.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/prefix_matcher.h"
#include "text/pretokenizer.h"
#include "text/token_index.h"
#include "text/tokenizer.h"

namespace ashlar::text {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space

// Where text is taken apart before a family's own work begins.
class BasicTokenizer : public Tokenizer {
 public:
  explicit BasicTokenizer(Vocabulary vocabulary);

  std::vector<TokenId> encode(std::string_view text, EncodeOptions options) const final;
  std::string_view piece(TokenId id, bool special) const final;
  std::string decode(std::span<const TokenId> ids, bool special) const final;
  const Vocabulary& vocabulary() const final { return vocabulary_; }
  bool is_end(TokenId id) const final { return in_range(id) && ends_[static_cast<std::size_t>(id)]; }
  TokenId find(std::string_view token) const final { return index_.find(token); }

 protected:
  // corrupt: the vocabulary contradicts itself. To be called once, before all else.
  Status prepare();

  // Appends the ids of `text`, in which no special token is left. `beginning`:
  // a space prefix belongs before it.
  virtual void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const = 0;

  // What add_special puts before and after.
  virtual std::optional<TokenId> first_id() const;
  virtual std::optional<TokenId> last_id() const;

  // Appends the bytes that a token of type normal or unused stands for.
  virtual void append_piece(TokenId id, std::string& bytes) const = 0;

  // Of all tokens, by their text.
  const TokenIndex<TokenTexts>& index() const { return index_; }

  bool in_range(TokenId id) const { return id >= 0 && id < size(); }
  TokenType type(TokenId id) const {
    return vocabulary_.types.empty() ? TokenType::normal : vocabulary_.types[static_cast<std::size_t>(id)];
  }
  const std::string& token(TokenId id) const { return vocabulary_.tokens[static_cast<std::size_t>(id)]; }
  float score(TokenId id) const {
    return vocabulary_.scores.empty() ? 0.0f : vocabulary_.scores[static_cast<std::size_t>(id)];
  }
  // The id of a single byte's own token ("<0x0A>"); -1: none.
  TokenId byte_id(unsigned char byte) const { return byte_ids_[byte]; }
  std::string_view bytes(TokenId id) const {
    const auto at = static_cast<std::size_t>(id);
    return std::string_view(bytes_).substr(offsets_[at], offsets_[at + 1] - offsets_[at]);
  }

 private:
  Status check() const;
  Status index_tokens();
  // White space after this special token belongs to it. GGUF has no key for
  // that; among the families here only Phi-3's tokens are so.
  bool swallows_space(TokenId id) const;
  void find_byte_tokens();
  void lay_out_pieces();
  void find_ends();

  Vocabulary vocabulary_;
  TokenIndex<TokenTexts> index_;
  std::string bytes_;  // of all tokens, one after the other
  std::vector<std::uint32_t> offsets_;
  std::array<TokenId, 256> byte_ids_;
  std::vector<bool> ends_;
  bool phi3_ = false;
  PrefixMatcher user_defined_;  // found in any text
  PrefixMatcher special_;       // those, and control tokens
};

// The families. Each checks what only it needs.
Result<std::shared_ptr<const Tokenizer>> create_bpe(Vocabulary vocabulary);
Result<std::shared_ptr<const Tokenizer>> create_character_bpe(Vocabulary vocabulary, const PreTokenizer& pre);
Result<std::shared_ptr<const Tokenizer>> create_sentencepiece(Vocabulary vocabulary);
Result<std::shared_ptr<const Tokenizer>> create_unigram(Vocabulary vocabulary);
Result<std::shared_ptr<const Tokenizer>> create_wordpiece(Vocabulary vocabulary);

}  // namespace ashlar::text
