// SentencePiece's precompiled normalizer: which beginnings of a text are replaced
// by what.
//
//   u32 bytes of the trie | trie | replacement strings, each ended by a zero byte
//
// The trie is a Darts-clone double array: 32-bit units, little-endian.
//   bits 0-7 label, 8 has a value, 9 and 10-30 offset to the children; or, with
//   bit 31 set, bits 0-30 the value: where in the strings the replacement begins
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::text {

class Charsmap {
 public:
  struct Match {
    std::size_t length = 0;  // of what is replaced; 0: nothing is
    std::string_view replacement;
  };

  Charsmap() = default;
  // "" replaces nothing. corrupt: the sizes do not fit. What else may be wrong
  // in the trie only ends a match: no unit outside it is read.
  static Result<Charsmap> create(std::string blob);

  // The longest beginning of `text` that is replaced; both it and its replacement
  // have at most 64 bytes.
  Match longest(std::string_view text) const;

 private:
  std::uint32_t unit(std::size_t index) const;

  std::string blob_;
  std::size_t units_ = 0;
};

}  // namespace ashlar::text
