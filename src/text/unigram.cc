// SentencePiece's unigram model (Kudo 2018, arXiv:1804.10959): of all ways to take
// a text apart into tokens, the one whose scores (logarithms of probabilities) add
// up highest, found by Viterbi's algorithm.
#include <algorithm>
#include <limits>

#include "text/charsmap.h"
#include "text/sentencepiece.h"
#include "text/unicode.h"

namespace ashlar::text {
namespace {

constexpr float kUnknownPenalty = 10.0f;  // below the lowest score of a token

class Unigram final : public SentencePiece {
 public:
  using SentencePiece::SentencePiece;

  Status load();

 protected:
  void encode_words(std::string_view text, bool beginning, std::vector<TokenId>& out) const override;

 private:
  std::string normalize(std::string_view text, bool beginning) const;

  Charsmap charsmap_;
  PrefixMatcher pieces_;
  float unknown_score_ = 0;
};

Status Unigram::load() {
  TRY(prepare());
  if (vocabulary().scores.empty())
    return Error{Code::corrupt, "the vocabulary has no scores, which a unigram model needs"};
  charsmap_ = TRY(Charsmap::create(vocabulary().precompiled_charsmap));
  std::vector<PrefixMatcher::Entry> entries;
  float lowest = std::numeric_limits<float>::max();
  for (TokenId id = 0; id < size(); ++id) {
    if (token(id).empty() || type(id) != TokenType::normal) continue;
    entries.push_back({token(id), id});
    lowest = std::min(lowest, score(id));
  }
  if (entries.empty()) return Error{Code::corrupt, "the vocabulary has no token of type normal"};
  unknown_score_ = lowest - kUnknownPenalty;
  pieces_ = PrefixMatcher(std::move(entries));
  return {};
}

// Replacements by the charsmap, then spaces: one before the text, and, where the
// model says so, none but single ones within.
std::string Unigram::normalize(std::string_view text, bool beginning) const {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + kSpaceMark.size());
  const bool single_spaces = vocabulary().remove_extra_whitespaces;
  bool after_space = single_spaces;  // also at the beginning
  bool begun = false;
  while (!text.empty()) {
    Charsmap::Match match = charsmap_.longest(text);
    if (match.length == 0) {
      const unicode::CodePoint c = unicode::read_code(text.data(), text.data() + text.size());
      match = {c.bytes, c.code == 0xFFFD ? "\uFFFD" : text.substr(0, c.bytes)};
    }
    text.remove_prefix(match.length);
    while (after_space && match.replacement.starts_with(' ')) match.replacement.remove_prefix(1);
    if (match.replacement.empty()) continue;
    if (!begun && beginning && vocabulary().add_space_prefix) out += kSpaceMark;
    begun = true;
    append_escaped(match.replacement, out);
    after_space = single_spaces && match.replacement.ends_with(' ');
  }
  while (single_spaces && out.ends_with(kSpaceMark)) out.resize(out.size() - kSpaceMark.size());
  return out;
}

void Unigram::encode_words(std::string_view raw, bool beginning, std::vector<TokenId>& out) const {
  const std::string text = normalize(raw, beginning);
  // The best way to each position: where its last token begins, and which it is.
  struct Way {
    float score = -std::numeric_limits<float>::infinity();
    std::uint32_t begin = 0;
    TokenId id = -1;  // -1: one character that is in no token
  };
  std::vector<Way> ways(text.size() + 1);
  ways[0].score = 0;
  for (std::size_t at = 0; at < text.size();) {
    // Sums are compared in double and kept in float: so does the original, and
    // between ways that are equally good the rounding decides.
    const double score_here = ways[at].score;
    const std::size_t character = unicode::read_code(text.data() + at, text.data() + text.size()).bytes;
    const auto offer = [&](std::size_t length, float added, TokenId id) {
      Way& way = ways[at + length];
      const double offered = score_here + added;
      if (offered > way.score) way = {static_cast<float>(offered), static_cast<std::uint32_t>(at), id};
    };
    bool character_is_token = false;
    pieces_.each(std::string_view(text).substr(at), [&](TokenId id, std::size_t length) {
      character_is_token |= length == character;
      offer(length, score(id), id);
    });
    if (!character_is_token) offer(character, unknown_score_, -1);
    at += character;
  }
  std::vector<Way> best;  // from the end to the beginning, with `begin` as it was and `score` unused
  for (std::size_t end = text.size(); end > 0; end = ways[end].begin) best.push_back(ways[end]);
  for (std::size_t i = best.size(); i-- > 0;) {
    const std::size_t end = i == 0 ? text.size() : best[i - 1].begin;
    if (best[i].id >= 0)
      out.push_back(best[i].id);
    else
      append_bytes(std::string_view(text).substr(best[i].begin, end - best[i].begin), out);
  }
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> create_unigram(Vocabulary vocabulary) {
  auto tokenizer = std::make_shared<Unigram>(std::move(vocabulary));
  TRY(tokenizer->load());
  return tokenizer;
}

}  // namespace ashlar::text
