// What Python's str methods know of Unicode: classes of characters and case.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ashlar::text::jinja {

enum CharClass : std::uint8_t {
  kAlpha = 1,
  kDecimal = 2,
  kDigit = 4,
  kNumeric = 8,
  kPrintable = 16,
  kSpace = 32,
};
// A union of CharClass flags.
std::uint8_t char_class(char32_t code);
inline bool is_space(char32_t code) { return (char_class(code) & kSpace) != 0; }

enum class Case : std::uint8_t { none, upper, lower, title };
Case case_of(char32_t code);

// str.upper(), lower(), capitalize(), title(), swapcase(). A result may be longer
// than the text, at most threefold.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_capitalized(std::string_view text);
std::string to_title(std::string_view text);
std::string swap_case(std::string_view text);

// `text` from code point `from` up to code point `to` (clamped).
std::string_view slice_points(std::string_view text, std::size_t from, std::size_t to, bool ascii);
std::size_t count_points(std::string_view text);

}  // namespace ashlar::text::jinja
