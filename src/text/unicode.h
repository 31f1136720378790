// What a pre-tokenizer pattern asks of a character: its general category, folded
// into one byte of bits. Unicode 15.0 (utf8proc 2.8).
#pragma once

#include <utf8proc.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/utf8.h"

namespace ashlar::text::unicode {

using Kinds = std::uint8_t;

inline constexpr Kinds kUpper = 1;         // Lu, Lt
inline constexpr Kinds kLower = 2;         // Ll
inline constexpr Kinds kOtherLetter = 4;   // Lm, Lo
inline constexpr Kinds kMark = 8;          // M
inline constexpr Kinds kNumber = 16;       // N
inline constexpr Kinds kPunctuation = 32;  // P
inline constexpr Kinds kSymbol = 64;       // S
inline constexpr Kinds kSpace = 128;       // the property White_Space, which is what \s means in these patterns
inline constexpr Kinds kLetter = kUpper | kLower | kOtherLetter;
// No bit: control, format, private use, unassigned.

namespace detail {
consteval std::array<Kinds, 128> ascii_kinds() {
  std::array<Kinds, 128> kinds{};
  for (int c = 0; c < 128; ++c) {
    Kinds kind = 0;
    if (c >= 'A' && c <= 'Z')
      kind = kUpper;
    else if (c >= 'a' && c <= 'z')
      kind = kLower;
    else if (c >= '0' && c <= '9')
      kind = kNumber;
    else if (c == ' ' || (c >= '\t' && c <= '\r'))
      kind = kSpace;
    else if (std::string_view("$+<=>^`|~").contains(static_cast<char>(c)))
      kind = kSymbol;
    else if (c > ' ' && c < 127)
      kind = kPunctuation;
    kinds[static_cast<std::size_t>(c)] = kind;
  }
  return kinds;
}
inline constexpr std::array<Kinds, 128> kAscii = ascii_kinds();
}  // namespace detail

Kinds kinds_beyond_ascii(char32_t code);

inline Kinds kinds(char32_t code) { return code < 128 ? detail::kAscii[code] : kinds_beyond_ascii(code); }

bool is_decimal_digit(char32_t code);  // Nd

// Unicode's normalization form C of `text`: itself where it is composed already, or no valid UTF-8, else written to
// `room`.
std::string_view composed(std::string_view text, std::string& room);

struct CodePoint {
  char32_t code;
  std::uint8_t bytes;
};

// The character at `at`, which is before `end`. A byte that begins no valid
// character stands for U+FFFD, one byte long.
inline CodePoint read_code(const char* at, const char* end) {
  const auto lead = static_cast<unsigned char>(*at);
  if (lead < 128) [[likely]]
    return {lead, 1};
  const utf8::Step step = utf8::decode({at, static_cast<std::size_t>(end - at)});
  if (!step.valid) return {0xFFFD, 1};
  return {step.code, static_cast<std::uint8_t>(step.bytes)};
}

struct Char {
  char32_t code;
  Kinds kinds;
  std::uint8_t bytes;
};

inline Char read(const char* at, const char* end) {
  const CodePoint code = read_code(at, end);
  return {code.code, kinds(code.code), code.bytes};
}

}  // namespace ashlar::text::unicode
