// SentencePiece's BPE: of all neighbours whose joined text is a token, those with
// the highest score are merged first.
#include <bit>

#include "text/neighbours.h"
#include "text/sentencepiece.h"
#include "text/unicode.h"
#include "text/word_run.h"

namespace ashlar::text {
namespace {

class SentencePieceBpe final : public SentencePiece {
 public:
  explicit SentencePieceBpe(Vocabulary vocabulary)
      : SentencePiece(std::move(vocabulary)), whole_(this->vocabulary().tokens.size()) {}

  Status load();

  // For WordRun.
  std::uint64_t hash(std::string_view word) const { return index().hash(word); }
  TokenId word_id(std::string_view word, std::uint64_t hash) const {
    const TokenId id = index().find(word, hash);
    return id >= 0 && matches_text(id) ? id : -1;
  }
  bool takes_whole(TokenId) const { return false; }
  const WholeTokens& whole_tokens() const { return whole_; }
  void merge_word(std::string_view word, MergeScratch& scratch, std::vector<TokenId>& out) const;

 protected:
  void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const override;

 private:
  Pair join(std::string_view joined) const;

  WholeTokens whole_;
  Neighbours neighbours_;
  std::size_t longest_ = 0;  // bytes of the longest token
};

Status SentencePieceBpe::load() {
  TRY(prepare());
  if (vocabulary().scores.empty())
    return Error{Code::corrupt, "the vocabulary has no scores, which a SentencePiece model needs"};
  for (TokenId id = 0; id < size(); ++id) {
    if (!matches_text(id)) continue;
    neighbours_.add(token(id));
    longest_ = std::max(longest_, token(id).size());
  }
  return {};
}

void SentencePieceBpe::encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 2 + kSpaceMark.size());
  if (beginning && vocabulary().add_space_prefix) escaped += kSpaceMark;
  append_escaped(text, escaped);
  WordRun run(*this, escaped.size(), out);
  neighbours_.cut(escaped, [&](std::string_view word) { run.word(word); });
}

Pair SentencePieceBpe::join(std::string_view joined) const {
  if (joined.size() > longest_) return {};
  const TokenId id = word_id(joined, hash(joined));
  if (id < 0) return {};
  // The bits of a float, made to sort as its value does, the highest first.
  const auto bits = std::bit_cast<std::uint32_t>(score(id) + 0.0f);
  return {bits >> 31 ? bits : ~(bits | 0x80000000u), id};
}

void SentencePieceBpe::merge_word(std::string_view word, MergeScratch& scratch, std::vector<TokenId>& out) const {
  scratch.symbols.clear();
  for (const char *at = word.data(), *end = at + word.size(); at < end;) {
    const std::uint32_t bytes = unicode::read_code(at, end).bytes;
    scratch.symbols.push_back({static_cast<std::uint32_t>(at - word.data()), bytes, -1});
    at += bytes;
  }
  const auto text = [&](const Symbol& symbol) { return word.substr(symbol.begin, symbol.length); };
  merge(
      scratch.symbols,
      [&](const Symbol& a, const Symbol& b) { return join(word.substr(a.begin, a.length + b.length)); }, scratch.pairs);
  for (const Symbol& symbol : scratch.symbols) {
    const TokenId id = symbol.id >= 0 ? symbol.id : word_id(text(symbol), hash(text(symbol)));
    if (id >= 0)
      out.push_back(id);
    else
      append_bytes(text(symbol), out);
  }
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> create_sentencepiece(Vocabulary vocabulary) {
  auto tokenizer = std::make_shared<SentencePieceBpe>(std::move(vocabulary));
  TRY(tokenizer->load());
  return tokenizer;
}

}  // namespace ashlar::text
