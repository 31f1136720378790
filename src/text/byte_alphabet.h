// GPT-2's alphabet: each byte as one printable character, so that any bytes can
// be written as a token of text. Bytes that are printable in Latin-1 stand for
// themselves; the other 68 are U+0100 and what follows, in order.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "base/utf8.h"

namespace ashlar::text {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

// The byte that a character of the alphabet stands for; -1: none.
inline int byte_of(char32_t code) {
  static constexpr auto kShifted = [] {
    std::array<unsigned char, 68> bytes{};
    std::size_t next = 0;
    for (int byte = 0; byte < 256; ++byte)
      if (!stands_for_itself(byte)) bytes[next++] = static_cast<unsigned char>(byte);
    return bytes;
  }();
  if (code < 256) return stands_for_itself(static_cast<int>(code)) ? static_cast<int>(code) : -1;
  return code < 256 + kShifted.size() ? kShifted[code - 256] : -1;
}

// Appends the bytes that `token` spells; false: it has a character outside the
// alphabet (what was appended is then to be thrown away).
inline bool append_spelled(std::string_view token, std::string& bytes) {
  while (!token.empty()) {
    const utf8::Step step = utf8::decode(token);
    const int byte = step.valid ? byte_of(step.code) : -1;
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
    token.remove_prefix(step.bytes);
  }
  return true;
}

// The token that spells these bytes.
inline std::string spelled(std::string_view bytes) {
  static constexpr auto kCodes = [] {
    std::array<char32_t, 256> codes{};
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte)
      codes[static_cast<std::size_t>(byte)] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
    return codes;
  }();
  std::string token;
  for (const char byte : bytes) utf8::append(token, kCodes[static_cast<unsigned char>(byte)]);
  return token;
}

}  // namespace ashlar::text
