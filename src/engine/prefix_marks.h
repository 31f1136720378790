// Where in a prompt's tokens the texts end that its keys stand for.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/generator.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// The first `tokens` of a prompt, whole blocks of the cache, hold nothing but what `key` stands for.
struct PrefixMark {
  std::uint64_t key = 0;
  int tokens = 0;
};

// Of `ids`, which `rendered` became, in rising order, no two of one length. Where the rendered prompt does not show a
// message's text as it is, or trimmed, marks end: nothing is said that could be wrong.
std::vector<PrefixMark> prefix_marks(const Prompt& prompt, std::uint64_t salt, std::string_view rendered,
                                     std::span<const std::int32_t> ids, const text::Tokenizer& tokenizer);

}  // namespace ashlar::engine
