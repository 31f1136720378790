// UTF-8 (RFC 3629): decoding one character at a time, and cutting text only
// between characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ashlar::utf8 {

struct Step {
  char32_t code = 0xFFFD;
  std::size_t bytes = 1;   // how far to move on; of a broken character, its maximal broken prefix
  bool valid = false;
  bool truncated = false;  // the text ended inside a character that was right so far
};

// The first character of `text`, which is not empty.
Step decode(std::string_view text);

void append(std::string& out, char32_t code);

bool is_valid(std::string_view text);

// How many bytes of `text` end on a whole character: what is left over is the
// beginning of one that more bytes may finish. Broken bytes count as whole.
std::size_t complete_prefix(std::string_view text);

// `text` with every broken byte sequence replaced by U+FFFD.
std::string sanitize(std::string_view text);

}  // namespace ashlar::utf8
