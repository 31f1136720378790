// Byte-level BPE (Radford et al. 2019): a pattern cuts the text into words, and
// the bytes of each word are merged pair by pair.
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>

#include "text/basic_tokenizer.h"
#include "text/byte_alphabet.h"
#include "text/merge.h"
#include "text/merge_table.h"
#include "text/pretokenizer.h"
#include "text/word_cache.h"

namespace ashlar::text {
namespace {

class ByteLevelBpe final : public BasicTokenizer {
 public:
  ByteLevelBpe(Vocabulary vocabulary, const PreTokenizer& pre)
      : BasicTokenizer(std::move(vocabulary)), pre_(pre), words_(this->vocabulary().tokens.size(), Bytes{this}) {}

  Status load();

 protected:
  void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const override;
  void append_piece(TokenId id, std::string& bytes) const override;

 private:
  struct Bytes {
    const ByteLevelBpe* self;
    std::string_view operator()(TokenId id) const { return self->bytes(id); }
  };
  struct Run;  // one call of encode_words

  // Whether merging the bytes of a token gives that token: found out when it is
  // first met, since for some tokens no merges lead there.
  enum Whole : std::uint8_t { not_known, yes, no };

  const PreTokenizer& pre_;
  TokenIndex<Bytes> words_;  // what a word of the text can be
  MergeTable merges_;
  std::array<TokenId, 256> alphabet_;
  std::vector<TokenId> replacement_;  // U+FFFD, for a byte that has no token
  mutable std::vector<std::atomic<std::uint8_t>> whole_;
};

struct ByteLevelBpe::Run {
  const ByteLevelBpe& bpe;
  std::vector<TokenId>& out;
  WordCache cache;
  std::vector<Symbol> symbols;
  std::vector<Pair> pairs;

  Run(const ByteLevelBpe& tokenizer, std::size_t text_bytes, std::vector<TokenId>& ids)
      : bpe(tokenizer), out(ids), cache(text_bytes) {}

  void word(std::string_view bytes) {
    const std::uint64_t hash = bpe.words_.hash(bytes);
    const TokenId token = bpe.words_.find(bytes, hash);
    if (token >= 0) {
      if (bpe.pre_.ignore_merges ||
          bpe.whole_[static_cast<std::size_t>(token)].load(std::memory_order_relaxed) == Whole::yes) {
        out.push_back(token);
        return;
      }
    }
    if (cache.append(bytes, hash, out)) return;
    const std::size_t before = out.size();
    merge_bytes(bytes);
    const std::span<const TokenId> ids = std::span(out).subspan(before);
    if (token >= 0) {
      const bool whole = ids.size() == 1 && ids[0] == token;
      bpe.whole_[static_cast<std::size_t>(token)].store(whole ? Whole::yes : Whole::no, std::memory_order_relaxed);
      if (whole) return;
    }
    cache.put(bytes, hash, ids);
  }

  void merge_bytes(std::string_view bytes) {
    symbols.resize(bytes.size());
    for (std::uint32_t i = 0; i < bytes.size(); ++i)
      symbols[i] = {i, 1, bpe.alphabet_[static_cast<unsigned char>(bytes[i])]};
    merge(symbols, [&](const Symbol& a, const Symbol& b) { return bpe.merges_.find(a.id, b.id); }, pairs);
    for (const Symbol& symbol : symbols) {
      if (bpe.in_range(symbol.id)) {
        out.push_back(symbol.id);
        continue;
      }
      // Merges led to a string that is no token, or a byte has none.
      for (const char byte : bytes.substr(symbol.begin, symbol.length)) {
        const TokenId id = bpe.alphabet_[static_cast<unsigned char>(byte)];
        if (id >= 0) out.push_back(id);
        else out.insert(out.end(), bpe.replacement_.begin(), bpe.replacement_.end());
      }
    }
  }
};

Status ByteLevelBpe::load() {
  TRY(prepare());
  alphabet_.fill(-1);
  for (TokenId id = 0; id < size(); ++id) {
    // A token that is found in the text before it is cut into words is no word.
    if (token(id).empty() || is_special(id) || type(id) == TokenType::unknown) continue;
    if (std::string spelled; !append_spelled(token(id), spelled)) continue;
    words_.insert(id);
    if (bytes(id).size() == 1) alphabet_[static_cast<unsigned char>(bytes(id)[0])] = id;
  }
  merges_ = TRY(MergeTable::create(vocabulary().merges, *this));
  whole_ = std::vector<std::atomic<std::uint8_t>>(vocabulary().tokens.size());
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
  Run run(*this, text.size(), out);
  pre_.split(text, {&run, [](void* self, std::string_view word) { static_cast<Run*>(self)->word(word); }});
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> create_bpe(Vocabulary vocabulary) {
  const PreTokenizer* pre = TRY(find_pre_tokenizer(vocabulary.pre));
  auto tokenizer = std::make_shared<ByteLevelBpe>(std::move(vocabulary), *pre);
  TRY(tokenizer->load());
  return tokenizer;
}

}  // namespace ashlar::text
