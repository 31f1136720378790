// BERT's WordPiece (Devlin et al. 2018, arXiv:1810.04805): text is normalized and
// cut at white space and punctuation; each word is then taken apart by its longest
// beginnings. GGUF writes the first piece of a word with U+2581 before it and the
// others bare, where BERT's own files write "##" before the others.
#include <algorithm>

#include "base/utf8.h"
#include "text/basic_tokenizer.h"
#include "text/unicode.h"

namespace ashlar::text {
namespace {

using namespace unicode;

constexpr int kMaxWordCharacters = 100;  // a longer word is unknown

// As Hugging Face's BertNormalizer has it, whose fifth range begins at 0x2B920
// where Unicode's block begins at 0x2B820.
bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// Control, format and private-use characters, which are taken out.
bool is_removed(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CO;
}

bool is_punctuation(char32_t c) { return (kinds(c) & kPunctuation) != 0 || (c < 128 && (kinds(c) & kSymbol) != 0); }

class WordPiece final : public BasicTokenizer {
 public:
  using BasicTokenizer::BasicTokenizer;

  Status load();

 protected:
  void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const override;
  void append_piece(TokenId id, std::string& bytes) const override;
  std::optional<TokenId> first_id() const override;
  std::optional<TokenId> last_id() const override;

 private:
  struct Word {
    std::string text{kSpaceMark};
    int characters = 0;
  };
  void add(char32_t c, Word& word, std::vector<TokenId>& out) const;
  void finish(Word& word, std::vector<TokenId>& out) const;

  PrefixMatcher firsts_;         // of a word, U+2581 before them
  PrefixMatcher continuations_;  // the rest
  bool lower_case_ = true, strip_accents_ = true;
  TokenId unknown_ = -1, cls_ = -1, separator_ = -1;
};

Status WordPiece::load() {
  TRY(prepare());
  const Vocabulary& v = vocabulary();
  const auto first_of = [&](TokenId a, TokenId b, std::string_view name) {
    return a >= 0 ? a : b >= 0 ? b : find(name);
  };
  unknown_ = first_of(v.unknown, -1, "[UNK]");
  cls_ = first_of(v.cls, v.bos, "[CLS]");
  separator_ = first_of(v.separator, v.eos, "[SEP]");
  if (unknown_ < 0) return Error{Code::corrupt, "the vocabulary has no unknown token, which a WordPiece model needs"};
  std::vector<PrefixMatcher::Entry> firsts, continuations;
  for (TokenId id = 0; id < size(); ++id) {
    const std::string_view text = token(id);
    if (text.empty() || (type(id) != TokenType::normal && type(id) != TokenType::unused)) continue;
    (text.starts_with(kSpaceMark) ? firsts : continuations).push_back({text, id});
    // A vocabulary with capitals is one of a model that was trained on them.
    if (text[0] != '[' && std::ranges::any_of(text, [](char c) { return c >= 'A' && c <= 'Z'; })) lower_case_ = false;
  }
  lower_case_ = v.lower_case.value_or(lower_case_);
  strip_accents_ = v.strip_accents.value_or(lower_case_);
  firsts_ = PrefixMatcher(std::move(firsts));
  continuations_ = PrefixMatcher(std::move(continuations));
  return {};
}

std::optional<TokenId> WordPiece::first_id() const {
  return vocabulary().add_bos && cls_ >= 0 ? std::optional(cls_) : std::nullopt;
}

std::optional<TokenId> WordPiece::last_id() const {
  return vocabulary().add_eos && separator_ >= 0 ? std::optional(separator_) : std::nullopt;
}

void WordPiece::append_piece(TokenId id, std::string& bytes) const {
  std::string_view text = token(id);
  if (text.starts_with(kSpaceMark)) {
    text.remove_prefix(kSpaceMark.size());
    bytes += ' ';
  }
  bytes += text;
}

void WordPiece::encode_words(std::string_view text, bool, std::vector<TokenId>& out) const {
  Word word;
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const Char c = read(at, end);
    at += c.bytes;
    if (c.code == 0 || c.code == 0xFFFD || is_removed(c.code)) continue;
    if (c.code < 128 || (!lower_case_ && !strip_accents_)) {
      add(lower_case_ && c.code >= 'A' && c.code <= 'Z' ? c.code + 32 : c.code, word, out);
      continue;
    }
    if (is_chinese(c.code)) finish(word, out);
    const auto put = [&](utf8proc_int32_t part) {
      add(static_cast<char32_t>(lower_case_ ? utf8proc_tolower(part) : part), word, out);
    };
    utf8proc_int32_t parts[8];
    int boundary = 0;
    utf8proc_ssize_t count = 1;
    parts[0] = static_cast<utf8proc_int32_t>(c.code);
    if (strip_accents_)  // the canonical decomposition without its nonspacing marks
      count = utf8proc_decompose_char(parts[0], parts, std::size(parts), UTF8PROC_DECOMPOSE, &boundary);
    for (utf8proc_ssize_t i = 0; i < std::min<utf8proc_ssize_t>(count, std::size(parts)); ++i)
      if (!strip_accents_ || utf8proc_category(parts[i]) != UTF8PROC_CATEGORY_MN) put(parts[i]);
    if (is_chinese(c.code)) finish(word, out);
  }
  finish(word, out);
}

void WordPiece::add(char32_t c, Word& word, std::vector<TokenId>& out) const {
  if ((kinds(c) & kSpace) != 0) return finish(word, out);
  const bool alone = is_punctuation(c) || is_chinese(c);
  if (alone) finish(word, out);
  if (word.characters <= kMaxWordCharacters) utf8::append(word.text, c);  // beyond it, only the count matters
  ++word.characters;
  if (alone) finish(word, out);
}

void WordPiece::finish(Word& word, std::vector<TokenId>& out) const {
  if (word.characters == 0) return;
  const std::size_t before = out.size();
  std::string_view rest = word.text;
  while (!rest.empty() && word.characters <= kMaxWordCharacters) {
    const PrefixMatcher& pieces = out.size() == before ? firsts_ : continuations_;
    const PrefixMatcher::Match match = pieces.longest(rest);
    if (match.id < 0) break;
    out.push_back(match.id);
    rest.remove_prefix(match.length);
  }
  if (!rest.empty()) {
    out.resize(before);
    out.push_back(unknown_);
  }
  word.text = kSpaceMark;
  word.characters = 0;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> create_wordpiece(Vocabulary vocabulary) {
  auto tokenizer = std::make_shared<WordPiece>(std::move(vocabulary));
  TRY(tokenizer->load());
  return tokenizer;
}

}  // namespace ashlar::text
