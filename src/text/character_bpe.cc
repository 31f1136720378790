// BPE over characters, with SentencePiece's spaces and bytes but merges that are
// listed, as Gemma 4 has it: spaces become U+2581, words are whole lines.
#include <algorithm>

#include "text/merge_table.h"
#include "text/neighbours.h"
#include "text/pretokenizer.h"
#include "text/sentencepiece.h"
#include "text/word_run.h"

namespace ashlar::text {
namespace {

class CharacterBpe final : public SentencePiece {
 public:
  CharacterBpe(Vocabulary vocabulary, const PreTokenizer& pre)
      : SentencePiece(std::move(vocabulary)), pre_(pre), whole_(this->vocabulary().tokens.size()) {}

  Status load();

  // For WordRun.
  std::uint64_t hash(std::string_view word) const { return index().hash(word); }
  TokenId word_id(std::string_view word, std::uint64_t hash) const {
    const TokenId id = index().find(word, hash);
    return id >= 0 && matches_text(id) ? id : -1;
  }
  bool takes_whole(TokenId id) const { return token(id).find_first_not_of('\n') == std::string::npos; }
  const WholeTokens& whole_tokens() const { return whole_; }
  void merge_word(std::string_view word, MergeScratch& scratch, std::vector<TokenId>& out) const;

 protected:
  void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const override;

 private:
  struct Lines;

  const PreTokenizer& pre_;
  WholeTokens whole_;
  MergeTable merges_;
  Neighbours neighbours_;
};

Status CharacterBpe::load() {
  TRY(prepare());
  merges_ = TRY(MergeTable::create(vocabulary().merges, index(), vocabulary().tokens.size()));
  std::string joined;
  for (const std::string& merge : vocabulary().merges) {
    joined = merge;
    joined.erase(merge.find(' ', 1), 1);
    neighbours_.add(joined);
  }
  for (TokenId id = 0; id < size(); ++id)
    if (matches_text(id) && takes_whole(id)) neighbours_.add(token(id));
  return {};
}

struct CharacterBpe::Lines {
  const CharacterBpe& self;
  WordRun<CharacterBpe> run;
  void operator()(std::string_view line) {
    self.neighbours_.cut(line, [&](std::string_view word) { run.word(word); });
  }
};

void CharacterBpe::encode_words(std::string_view text, bool, std::vector<TokenId>& out) const {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 2);
  append_escaped(text, escaped);
  Lines lines{*this, {*this, escaped.size(), out}};
  pre_.split(escaped, {&lines, [](void* self, std::string_view line) { (*static_cast<Lines*>(self))(line); }});
}

void CharacterBpe::merge_word(std::string_view word, MergeScratch& scratch, std::vector<TokenId>& out) const {
  scratch.symbols.clear();
  for (std::size_t at = 0; at < word.size();) {
    const std::uint32_t bytes = unicode::read_code(word.data() + at, word.data() + word.size()).bytes;
    const std::string_view character = word.substr(at, bytes);
    TokenId id = word_id(character, hash(character));
    if (id < 0) id = merges_.find_other(character);
    scratch.symbols.push_back({static_cast<std::uint32_t>(at), bytes, id});
    at += bytes;
  }
  merge(scratch.symbols, [&](const Symbol& a, const Symbol& b) { return merges_.find(a.id, b.id); }, scratch.pairs);
  for (const Symbol& symbol : scratch.symbols) {
    if (in_range(symbol.id))
      out.push_back(symbol.id);
    else
      append_bytes(word.substr(symbol.begin, symbol.length), out);
  }
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> create_character_bpe(Vocabulary vocabulary, const PreTokenizer& pre) {
  auto tokenizer = std::make_shared<CharacterBpe>(std::move(vocabulary), pre);
  TRY(tokenizer->load());
  return tokenizer;
}

}  // namespace ashlar::text
