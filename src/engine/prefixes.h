// Beginnings of prompts by names that need no tokens, and what of them a prefix cache holds: so that who routes a
// request knows where most of it is cached, before anybody has rendered or tokenized it.
//
// A key stands for the first kPrefixBytes, 2 kPrefixBytes... of a prompt's text under a salt, chained: it says
// everything before it, too. Who routes makes the keys of a request and gives it the salt; the engine that answers
// makes the same keys, finds where in the tokens each of those texts ends, and notes the key at the last block of its
// cache that lies wholly before. As long as that block is cached, so is all before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/generator.h"

namespace ashlar::engine {

inline constexpr std::size_t kPrefixBytes = 128;
inline constexpr std::size_t kMostPrefixes = 2048;  // of one prompt: what comes after has no key

// Each text of a prompt with who says it, in their order; ids as their bytes.
void visit_texts(const Prompt& prompt, const std::function<void(std::string_view role, std::string_view text)>& visit);
// All its text, roles included, up to `most` bytes: what two prompts with the same beginning have in common.
std::string text_of(const Prompt& prompt, std::size_t most);

// The same in every process. A last part that is shorter has no key.
std::vector<std::uint64_t> prefix_keys(std::string_view text, std::uint64_t salt);
std::vector<std::uint64_t> prefix_keys(const Prompt& prompt, std::uint64_t salt);

// Any thread may call.
class CachedPrefixes {
 public:
  virtual ~CachedPrefixes() = default;

  // How many tokens of a prompt with these keys are in the cache now, from its first.
  virtual int cached(std::span<const std::uint64_t> keys) const = 0;
  virtual std::size_t size() const = 0;  // keys that are known

  // For who keeps a copy.
  struct Change {
    std::uint64_t key = 0;
    int tokens = 0;  // up to there; 0: it is cached no more. A key that came twice is there until it has gone twice.
  };
  struct News {
    std::uint64_t book = 0;      // a number of its own for each cache that there ever was
    std::uint64_t sequence = 0;  // of its last change
    bool whole = true;           // all that is there, and not what changed
    bool cut = false;            // there is more than `most`
    std::vector<Change> changes;
  };
  // What changed after `sequence`; all, up to `most`, where that is another book's or too long ago.
  virtual News news(std::uint64_t book, std::uint64_t sequence, std::size_t most) const = 0;
};

}  // namespace ashlar::engine
