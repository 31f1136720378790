#include "engine/pair_form.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

namespace ashlar::engine {
namespace {

constexpr std::string_view kQuery = "{query}", kDocument = "{document}";
// A file's pattern may not blow up what it is filled with.
constexpr std::size_t kMaxPattern = 16 << 10;
constexpr int kMostQueries = 4;

int count(std::string_view text, std::string_view what) {
  int found = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != text.npos; at += what.size()) ++found;
  return found;
}

void replace(std::string& text, std::string_view what, std::string_view by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size()) text.replace(at, what.size(), by);
}

}  // namespace

std::string_view yes_no_pattern() {
  return "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
         "provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n"
         "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
         "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
}

Result<PairForm> PairForm::create(std::shared_ptr<const text::Tokenizer> tokenizer, std::string_view pattern) {
  PairForm form(std::move(tokenizer));
  if (!pattern.empty()) {
    if (pattern.size() > kMaxPattern || count(pattern, kDocument) != 1 || count(pattern, kQuery) < 1 ||
        count(pattern, kQuery) > kMostQueries)
      return Error{
          Code::invalid,
          fmt::format("the pattern for a query and a document has {} bytes, {{query}} {} times and {{document}} "
                      "{} times; at most {} bytes, {{query}} 1 to {} times and {{document}} once are expected",
                      pattern.size(), count(pattern, kQuery), count(pattern, kDocument), kMaxPattern, kMostQueries)};
    form.take_pattern(pattern);
    return form;
  }
  const text::Vocabulary& v = form.tokenizer_->vocabulary();
  const auto first_of = [&](text::TokenId a, text::TokenId b, std::string_view name) {
    return a >= 0 ? a : b >= 0 ? b : form.tokenizer_->find(name);
  };
  const bool wordpiece = v.model == "bert";
  form.begin_ = first_of(v.cls, v.bos, wordpiece ? "[CLS]" : "<s>");
  form.separator_ = first_of(v.separator, v.eos, wordpiece ? "[SEP]" : "</s>");
  form.between_ = wordpiece ? 1 : 2;
  if (form.begin_ < 0 || form.separator_ < 0)
    return Error{Code::unsupported, "the vocabulary has no tokens that stand between a query and a document"};
  return form;
}

void PairForm::take_pattern(std::string_view pattern) {
  const text::Vocabulary& v = tokenizer_->vocabulary();
  while (!pattern.empty()) {
    // The control token that comes first, and of those the longest.
    std::size_t at = pattern.size(), length = 0;
    text::TokenId found = -1;
    for (text::TokenId id = 0; id < tokenizer_->size(); ++id) {
      const std::string& name = v.tokens[static_cast<std::size_t>(id)];
      if (name.empty() || !tokenizer_->is_control(id)) continue;
      const std::size_t here = pattern.find(name);
      if (here == pattern.npos || here > at || (here == at && name.size() <= length)) continue;
      at = here, length = name.size(), found = id;
    }
    if (at > 0) parts_.push_back({.text = std::string(pattern.substr(0, at))});
    if (found >= 0) parts_.push_back({.id = found});
    pattern.remove_prefix(at + length);
  }
}

std::vector<std::int32_t> PairForm::encode(std::string_view text) const {
  return tokenizer_->encode(text, {.add_special = false, .parse_special = false});
}

std::vector<std::int32_t> PairForm::fill(std::string_view query, std::string_view document) const {
  std::vector<std::int32_t> ids;
  for (const Part& part : parts_) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    // Each in its turn: a query that writes "{document}" stays as it is, and so does a document with "{query}".
    const std::size_t at = part.text.find(kDocument);
    std::string text = part.text.substr(0, at);
    replace(text, kQuery, query);
    if (at != part.text.npos) {
      std::string behind = part.text.substr(at + kDocument.size());
      replace(behind, kQuery, query);
      text.append(document).append(behind);
    }
    const auto part_ids = encode(text);
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
  }
  return ids;
}

PairForm::Pair PairForm::with_separators(std::vector<std::int32_t> query, std::vector<std::int32_t> document,
                                         int most) const {
  Pair pair;
  const std::size_t around = 2 + static_cast<std::size_t>(between_), both = query.size() + document.size();
  if (most >= 0 && both + around > static_cast<std::size_t>(most)) {
    const std::size_t all = static_cast<std::size_t>(most), room = all - std::min(all, around);
    auto& longer = query.size() > document.size() ? query : document;
    auto& shorter = query.size() > document.size() ? document : query;
    const std::size_t less = std::min(shorter.size(), room / 2);
    shorter.resize(less);
    longer.resize(room - less);
    pair.cut = true;
  }
  pair.ids = std::move(query);
  pair.ids.insert(pair.ids.begin(), begin_);
  pair.ids.insert(pair.ids.end(), static_cast<std::size_t>(between_), separator_);
  pair.types.assign(pair.ids.size(), 0);
  pair.ids.insert(pair.ids.end(), document.begin(), document.end());
  pair.ids.push_back(separator_);
  pair.types.resize(pair.ids.size(), 1);
  return pair;
}

PairForm::Pair PairForm::write(std::string_view query, std::string_view document, int document_tokens, int most) const {
  const bool cut = document_tokens >= 0 || most >= 0;
  std::vector<std::int32_t> ids;
  if (parts_.empty() || cut) ids = encode(document);
  if (document_tokens >= 0) ids.resize(std::min(ids.size(), static_cast<std::size_t>(document_tokens)));
  if (parts_.empty()) return with_separators(encode(query), std::move(ids), most);
  if (!cut) return {.ids = fill(query, document), .types = {}};
  // Text and tokens at the seam need not add up, so what is still too long is cut again.
  for (bool again = false;; again = true) {
    Pair pair{.ids = fill(query, tokenizer_->decode(ids)), .types = {}, .cut = again};
    const std::size_t room = most < 0 ? pair.ids.size() : static_cast<std::size_t>(most);
    if (pair.ids.size() <= room || ids.empty()) return pair;
    ids.resize(ids.size() - std::min(ids.size(), pair.ids.size() - room));
  }
}

}  // namespace ashlar::engine
