// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::text {

using TokenId = std::int32_t;

// As GGUF numbers them (tokenizer.ggml.token_type).
enum class TokenType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

// All that a file says of its vocabulary.
struct Vocabulary {
  std::string model;  // GGUF's tokenizer.ggml.model: "gpt2" byte-level BPE, "llama" SentencePiece BPE, "t5" unigram,
                      // "bert" WordPiece
  std::string pre;    // tokenizer.ggml.pre: the pre-tokenizer pattern's family
  std::vector<std::string> tokens;
  std::vector<float> scores;         // empty, or one for each token
  std::vector<TokenType> types;      // empty (all normal), or one for each token
  std::vector<std::string> merges;   // "left right", best first
  std::string precompiled_charsmap;  // SentencePiece's normalizer, raw bytes; may be empty
  TokenId bos = -1, eos = -1, eot = -1, eom = -1, unknown = -1, separator = -1, padding = -1, cls = -1, mask = -1;
  std::vector<TokenId> end_of_generation;  // further ids that end an answer
  bool add_bos = false, add_eos = false, add_space_prefix = true, remove_extra_whitespaces = false;
  bool prefix_once = false;  // the space prefix stands before a text alone, not behind special tokens too
  bool compose = false;      // byte-level BPE: text is brought to Unicode's form NFC first, special tokens aside
  // Byte-level BPE: a word that is a token is that token, whatever the merges say. Empty: as `pre` has it.
  std::optional<bool> ignore_merges;
  // WordPiece: capitals become small letters, accents go. Empty: capitals stay where the tokens have some; accents go
  // with them.
  std::optional<bool> lower_case, strip_accents;
};

struct EncodeOptions {
  bool add_special = true;     // BOS and EOS (or CLS and SEP) as the model wants them
  bool parse_special = false;  // control tokens written in the text become their ids
};

// Immutable; any thread.
class Tokenizer {
 public:
  // corrupt: the vocabulary contradicts itself. unsupported: an unknown model or pre-tokenizer.
  static Result<std::shared_ptr<const Tokenizer>> create(Vocabulary vocabulary);
  virtual ~Tokenizer() = default;

  // Any bytes, at most 1 GiB of them (callers see to that); those that are not
  // UTF-8 are encoded as the family does it.
  virtual std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const = 0;

  // The raw bytes that a token stands for in running text; "" for an id out of
  // range. A single token may hold part of a character. Control tokens give
  // their name only if `special`.
  virtual std::string_view piece(TokenId id, bool special = false) const = 0;

  // The text of a whole sequence, beginning handled as the family does it (a
  // SentencePiece space prefix is dropped).
  virtual std::string decode(std::span<const TokenId> ids, bool special = false) const = 0;

  virtual const Vocabulary& vocabulary() const = 0;
  int size() const { return static_cast<int>(vocabulary().tokens.size()); }

  // Ids that end an answer: EOS, EOT and their kin.
  virtual bool is_end(TokenId id) const = 0;
  bool is_control(TokenId id) const;
  // Of type control or user_defined: found in a text before all else.
  bool is_special(TokenId id) const;
  // The family puts a space before a text, and before what follows a special
  // token: decoding drops one there.
  bool space_prefixed() const;
  // The id whose text is exactly `token`; -1: none.
  virtual TokenId find(std::string_view token) const = 0;
};

// Pieces to text, never splitting a UTF-8 character: what push() returns is whole.
class StreamDecoder {
 public:
  // `special`: control tokens are shown. `keep_space_prefix`: false at the
  // beginning of a text, true in the middle of one.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool special = false, bool keep_space_prefix = true);
  std::string push(TokenId id);
  // What was held back, broken bytes as U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool special_;
  bool drop_space_;
  bool begun_;
  std::string held_;
};

}  // namespace ashlar::text
