// Encoding the words of one text, for the families that merge: most words are
// tokens, most others came by before, and only the rest are merged.
#pragma once

#include <atomic>
#include <span>
#include <string_view>
#include <vector>

#include "text/merge.h"
#include "text/word_cache.h"

namespace ashlar::text {

// Which tokens come out whole when their own bytes are merged: for some, no
// merges lead there. Found out when a token is first met. Any thread.
class WholeTokens {
 public:
  explicit WholeTokens(std::size_t tokens) : states_(tokens) {}
  bool known(TokenId id) const { return state(id).load(std::memory_order_relaxed) == kWhole; }
  void note(TokenId id, bool whole) const { state(id).store(whole ? kWhole : kNotWhole, std::memory_order_relaxed); }

 private:
  static constexpr std::uint8_t kWhole = 1, kNotWhole = 2;
  std::atomic<std::uint8_t>& state(TokenId id) const { return states_[static_cast<std::size_t>(id)]; }
  mutable std::vector<std::atomic<std::uint8_t>> states_;
};

struct MergeScratch {
  std::vector<Symbol> symbols;
  std::vector<Pair> pairs;
};

// A family has:
//   std::uint64_t hash(std::string_view word) const
//   TokenId word_id(std::string_view word, std::uint64_t hash) const     -1: the word is no token
//   bool takes_whole(TokenId id) const                                   without a look at the merges
//   const WholeTokens& whole_tokens() const
//   void merge_word(std::string_view word, MergeScratch&, std::vector<TokenId>& out) const
template <class Family>
class WordRun {
 public:
  WordRun(const Family& family, std::size_t text_bytes, std::vector<TokenId>& out)
      : family_(family), out_(out), cache_(text_bytes) {}

  void word(std::string_view word) {
    const std::uint64_t hash = family_.hash(word);
    const TokenId token = family_.word_id(word, hash);
    if (token >= 0 && (family_.takes_whole(token) || family_.whole_tokens().known(token))) {
      out_.push_back(token);
      return;
    }
    if (cache_.append(word, hash, out_)) return;
    const std::size_t before = out_.size();
    family_.merge_word(word, scratch_, out_);
    const std::span<const TokenId> ids = std::span(out_).subspan(before);
    if (token >= 0) family_.whole_tokens().note(token, ids.size() == 1 && ids[0] == token);
    cache_.put(word, hash, ids);
  }

 private:
  const Family& family_;
  std::vector<TokenId>& out_;
  WordCache cache_;
  MergeScratch scratch_;
};

}  // namespace ashlar::text
