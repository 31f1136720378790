// Where a text may be cut before it is merged.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <string_view>

#include "text/unicode.h"

namespace ashlar::text {

// Which characters may stand side by side within a token. Between two that never
// do, no merge can reach across, so the text may be cut there and the parts
// encoded (and remembered) each by itself. A set of hashes: a false "yes" only
// makes a part longer.
class Neighbours {
 public:
  // All pairs within a token.
  void add(std::string_view token) {
    for (const char *at = token.data(), *end = at + token.size(); at < end;) {
      const unicode::CodePoint c = unicode::read_code(at, end);
      at += c.bytes;
      if (at < end) pairs_->set(place(c.code, unicode::read_code(at, end).code));
    }
  }

  template <class Emit>
  void cut(std::string_view text, Emit&& emit) const {
    const char* word = text.data();
    const char* const end = word + text.size();
    char32_t before = 0;
    for (const char* at = word; at < end;) {
      const unicode::CodePoint c = unicode::read_code(at, end);
      if (at != word && !(*pairs_)[place(before, c.code)]) {
        emit(std::string_view(word, at));
        word = at;
      }
      before = c.code;
      at += c.bytes;
    }
    if (word != end) emit(std::string_view(word, end));
  }

 private:
  static constexpr std::size_t kPlaces = std::size_t{1} << 20;
  static std::size_t place(char32_t left, char32_t right) {
    return ((std::uint64_t{left} * 0x9E3779B97F4A7C15u + right) * 0xE7037ED1A0B428DBu) >> 44;
  }
  std::unique_ptr<std::bitset<kPlaces>> pairs_ = std::make_unique<std::bitset<kPlaces>>();
};

}  // namespace ashlar::text
