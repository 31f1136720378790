// Byte-level BPE (Radford et al. 2019): a pattern cuts the text into words, and
// the bytes of each word are merged pair by pair.
#include <algorithm>
#include <array>
#include <memory>

#include "text/basic_tokenizer.h"
#include "text/byte_alphabet.h"
#include "text/merge_table.h"
#include "text/pretokenizer.h"
#include "text/unicode.h"
#include "text/word_run.h"

namespace ashlar::text {
namespace {

class ByteLevelBpe final : public BasicTokenizer {
 public:
  ByteLevelBpe(Vocabulary vocabulary, const PreTokenizer& pre)
      : BasicTokenizer(std::move(vocabulary)),
        pre_(pre),
        ignore_merges_(this->vocabulary().ignore_merges.value_or(pre.ignore_merges)),
        words_(this->vocabulary().tokens.size(), Bytes{this}),
        whole_(this->vocabulary().tokens.size()) {}

  Status load();

  // For WordRun.
  std::uint64_t hash(std::string_view word) const { return words_.hash(word); }
  TokenId word_id(std::string_view word, std::uint64_t hash) const { return words_.find(word, hash); }
  bool takes_whole(TokenId) const { return ignore_merges_; }
  const WholeTokens& whole_tokens() const { return whole_; }
  void merge_word(std::string_view word, MergeScratch& scratch, std::vector<TokenId>& out) const;

 protected:
  void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const override;
  void append_piece(TokenId id, std::string& bytes) const override;

 private:
  struct Bytes {
    const ByteLevelBpe* self;
    std::string_view operator()(TokenId id) const { return self->bytes(id); }
  };

  // Whether append_piece found a token to be in the alphabet: of its characters,
  // those beyond ASCII take two bytes, and one when spelled.
  bool is_spelled(TokenId id) const {
    return bytes(id).size() != token(id).size() ||
           std::ranges::all_of(token(id), [](char c) { return c > ' ' && c <= '~'; });
  }

  const PreTokenizer& pre_;
  bool ignore_merges_;
  TokenIndex<Bytes> words_;  // what a word of the text can be
  WholeTokens whole_;
  MergeTable merges_;
  std::array<TokenId, 256> alphabet_;
  std::vector<TokenId> replacement_;  // U+FFFD, for a byte that has no token and no place in UTF-8
};

Status ByteLevelBpe::load() {
  TRY(prepare());
  alphabet_.fill(-1);
  for (TokenId id = 0; id < size(); ++id) {
    // A token that is found in the text before it is cut into words is no word.
    if (token(id).empty() || is_special(id) || type(id) == TokenType::unknown || !is_spelled(id)) continue;
    words_.insert(id);
    if (bytes(id).size() == 1) alphabet_[static_cast<unsigned char>(bytes(id)[0])] = id;
  }
  merges_ = TRY(MergeTable::create(vocabulary().merges, index(), vocabulary().tokens.size()));
  std::vector<TokenId> replacement;
  encode_words("\uFFFD", true, replacement);
  replacement_ = std::move(replacement);
  return {};
}

void ByteLevelBpe::append_piece(TokenId id, std::string& bytes) const {
  const std::size_t before = bytes.size();
  if (append_spelled(token(id), bytes)) return;
  bytes.resize(before);
  bytes += token(id);
}

void ByteLevelBpe::encode_words(std::string_view text, bool, std::vector<TokenId>& out) const {
  std::string room;
  if (vocabulary().compose) text = unicode::composed(text, room);
  WordRun run(*this, text.size(), out);
  pre_.split(text,
             {&run, [](void* self, std::string_view word) { static_cast<WordRun<ByteLevelBpe>*>(self)->word(word); }});
}

void ByteLevelBpe::merge_word(std::string_view word, MergeScratch& scratch, std::vector<TokenId>& out) const {
  const auto byte_at = [&](std::size_t i) { return alphabet_[static_cast<unsigned char>(word[i])]; };
  scratch.symbols.resize(word.size());
  for (std::uint32_t i = 0; i < word.size(); ++i) scratch.symbols[i] = {i, 1, byte_at(i)};
  merge(scratch.symbols, [&](const Symbol& a, const Symbol& b) { return merges_.find(a.id, b.id); }, scratch.pairs);
  for (const Symbol& symbol : scratch.symbols) {
    if (in_range(symbol.id)) {
      out.push_back(symbol.id);
      continue;
    }
    // Merges led to a string that is no token, or a byte has none. Such a byte
    // goes, as everywhere; one that no UTF-8 has becomes U+FFFD.
    for (std::size_t i = symbol.begin; i < symbol.begin + symbol.length; ++i) {
      const auto byte = static_cast<unsigned char>(word[i]);
      if (byte_at(i) >= 0)
        out.push_back(byte_at(i));
      else if (byte == 0xC0 || byte == 0xC1 || byte >= 0xF5)
        out.insert(out.end(), replacement_.begin(), replacement_.end());
    }
  }
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> create_bpe(Vocabulary vocabulary) {
  const PreTokenizer* pre = TRY(find_pre_tokenizer(vocabulary.pre));
  if (pre->raw_characters) return create_character_bpe(std::move(vocabulary), *pre);
  auto tokenizer = std::make_shared<ByteLevelBpe>(std::move(vocabulary), *pre);
  TRY(tokenizer->load());
  return tokenizer;
}

}  // namespace ashlar::text
