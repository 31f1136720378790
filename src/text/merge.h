// Byte-pair merging (Sennrich et al. 2016, arXiv:1508.07909): join the best pair
// of neighbours until no pair can be joined. Both families of BPE run on it; they
// differ only in what makes a pair good.
#pragma once

#include <algorithm>
#include <cstdint>
#include <queue>
#include <vector>

#include "text/tokenizer.h"

namespace ashlar::text {

struct Symbol {
  std::uint32_t begin;   // where in the word its bytes are
  std::uint32_t length;  // 0: joined to its left neighbour
  TokenId id;
};

// What joining two neighbours would give.
struct Pair {
  static constexpr std::uint32_t kNever = 0xFFFFFFFF;
  std::uint32_t rank = kNever;  // the smallest is joined first; equal ranks from the left
  TokenId id = -1;
};

namespace detail {

// Quadratic in the number of symbols, and the fastest there is for a word.
template <class PairOf>
void merge_short(std::vector<Symbol>& symbols, const PairOf& pair_of, std::vector<Pair>& pairs) {
  pairs.resize(symbols.size());
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) pairs[i] = pair_of(symbols[i], symbols[i + 1]);
  while (symbols.size() > 1) {
    const std::size_t last = symbols.size() - 1;  // pairs[last] means nothing
    std::size_t best = 0;
    for (std::size_t i = 1; i < last; ++i)
      if (pairs[i].rank < pairs[best].rank) best = i;
    if (pairs[best].rank == Pair::kNever) return;
    symbols[best].length += symbols[best + 1].length;
    symbols[best].id = pairs[best].id;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(best));
    if (best > 0) pairs[best - 1] = pair_of(symbols[best - 1], symbols[best]);
    if (best + 1 < symbols.size()) pairs[best] = pair_of(symbols[best], symbols[best + 1]);
  }
}

// O(n log n): a list of symbols and a heap of candidates, in which those whose
// symbols have changed since are passed over.
template <class PairOf>
void merge_long(std::vector<Symbol>& symbols, const PairOf& pair_of) {
  struct Candidate {
    std::uint64_t key;     // rank, then position: what is joined first is smallest
    std::uint32_t length;  // of the two together: another length means it is stale
    TokenId id;
    bool operator>(const Candidate& other) const { return key > other.key; }
  };
  struct Links {
    std::uint32_t previous, next;
  };
  const auto count = static_cast<std::uint32_t>(symbols.size());
  std::vector<Links> links(count);
  std::vector<Candidate> heap;
  heap.reserve(count);
  const auto candidate = [&](std::uint32_t left, std::uint32_t right, auto&& take) {
    const Pair pair = pair_of(symbols[left], symbols[right]);
    if (pair.rank == Pair::kNever) return;
    take(Candidate{(std::uint64_t{pair.rank} << 32) | left, symbols[left].length + symbols[right].length, pair.id});
  };
  for (std::uint32_t i = 0; i < count; ++i) {
    links[i] = {i - 1, i + 1};
    if (i + 1 < count) candidate(i, i + 1, [&](const Candidate& c) { heap.push_back(c); });
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>{}, std::move(heap));
  const auto push = [&](const Candidate& c) { queue.push(c); };
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const auto left = static_cast<std::uint32_t>(best.key);
    const std::uint32_t right = links[left].next;
    if (symbols[left].length == 0 || right == count || symbols[left].length + symbols[right].length != best.length)
      continue;
    symbols[left].length = best.length;
    symbols[left].id = best.id;
    symbols[right].length = 0;
    links[left].next = links[right].next;
    if (links[left].next < count) {
      links[links[left].next].previous = left;
      candidate(left, links[left].next, push);
    }
    if (left > 0) candidate(links[left].previous, left, push);
  }
  std::erase_if(symbols, [](const Symbol& symbol) { return symbol.length == 0; });
}

}  // namespace detail

// Joins `symbols`, which lie side by side, in place. `pair_of(left, right)` must
// be a function of its two arguments alone. `scratch` only saves allocations.
template <class PairOf>
void merge(std::vector<Symbol>& symbols, const PairOf& pair_of, std::vector<Pair>& scratch) {
  constexpr std::size_t kShort = 48;
  if (symbols.size() <= kShort)
    detail::merge_short(symbols, pair_of, scratch);
  else
    detail::merge_long(symbols, pair_of);
}

}  // namespace ashlar::text
