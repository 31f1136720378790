// The long parts of a tokenizer.json, its tokens and merges, read without building a tree of them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace ashlar::models {

class TokenList {
 public:
  // Gives all of the JSON but `vocab` and `merges` of its member "model", which are kept here. `whole`: all of it is a
  // vocabulary. corrupt: not such JSON. too_large: over a limit.
  Result<Json> read(std::string_view text, bool whole, std::string_view name);
  void add_merge(std::string merge) { merges_.push_back(std::move(merge)); }

  // Tokens, types, scores and merges into `v`; `added`: the list of added tokens, or null. Ids that nobody has become
  // unused tokens. corrupt: an id that two tokens have, ids far beyond the number of tokens.
  Status move_to(text::Vocabulary& v, const Json& added, std::string_view name);

 private:
  friend class TokenBuilder;
  struct Token {
    std::string text;
    std::uint64_t id;
    float score;
  };
  std::vector<Token> tokens_;
  std::vector<std::string> merges_;
  bool scored_ = false;
};

// The id of the token that is written so, added ones included; -1: none.
text::TokenId find_token(const text::Vocabulary& v, std::string_view token);

// Marks words as GGUF does: of the tokens of type normal, those that continue a word lose `mark` ("##"), and the others
// get U+2581 before them.
void mark_words(text::Vocabulary& v, std::string_view mark);

// RFC 4648, padded; nullopt: not base64.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace ashlar::models
