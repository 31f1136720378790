#include "text/tokenizer.h"

#include <fmt/format.h>

#include "base/utf8.h"
#include "text/basic_tokenizer.h"

namespace ashlar::text {

Result<std::shared_ptr<const Tokenizer>> Tokenizer::create(Vocabulary vocabulary) {
  if (vocabulary.model == "gpt2") return create_bpe(std::move(vocabulary));
  if (vocabulary.model == "gemma4") {
    vocabulary.pre = "gemma4";
    return create_bpe(std::move(vocabulary));
  }
  if (vocabulary.model == "llama") return create_sentencepiece(std::move(vocabulary));
  if (vocabulary.model == "t5") return create_unigram(std::move(vocabulary));
  if (vocabulary.model == "bert") return create_wordpiece(std::move(vocabulary));
  return Error{
      Code::unsupported,
      fmt::format("tokenizer.ggml.model is \"{}\"; gpt2, llama, t5, bert and gemma4 are supported", vocabulary.model)};
}

bool Tokenizer::is_control(TokenId id) const {
  const std::vector<TokenType>& types = vocabulary().types;
  return id >= 0 && static_cast<std::size_t>(id) < types.size() &&
         types[static_cast<std::size_t>(id)] == TokenType::control;
}

bool Tokenizer::is_special(TokenId id) const {
  const std::vector<TokenType>& types = vocabulary().types;
  if (id < 0 || static_cast<std::size_t>(id) >= types.size()) return false;
  const TokenType type = types[static_cast<std::size_t>(id)];
  return type == TokenType::control || type == TokenType::user_defined;
}

bool Tokenizer::space_prefixed() const {
  const Vocabulary& v = vocabulary();
  return v.model == "bert" || ((v.model == "llama" || v.model == "t5") && v.add_space_prefix);
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool special, bool keep_space_prefix)
    : tokenizer_(tokenizer),
      special_(special),
      drop_space_(!keep_space_prefix && tokenizer.space_prefixed()),
      begun_(keep_space_prefix) {}

std::string StreamDecoder::push(TokenId id) {
  std::string_view next = tokenizer_.piece(id, special_);
  if (drop_space_ && next.starts_with(' ') && !tokenizer_.is_special(id)) next.remove_prefix(1);
  begun_ = begun_ || !next.empty();
  drop_space_ =
      tokenizer_.space_prefixed() && tokenizer_.is_special(id) && !(begun_ && tokenizer_.vocabulary().prefix_once);
  held_ += next;
  const std::size_t whole = utf8::complete_prefix(held_);
  std::string text = utf8::sanitize(std::string_view(held_).substr(0, whole));
  held_.erase(0, whole);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = utf8::sanitize(held_);
  held_.clear();
  return text;
}

}  // namespace ashlar::text
