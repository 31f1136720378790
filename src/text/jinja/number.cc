#include "text/jinja/number.h"

#include <cstdlib>
#include <string>

#include "base/utf8.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty()) {
    const auto step = utf8::decode(text);
    if (!is_space(step.code)) break;
    text.remove_prefix(step.bytes);
  }
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!is_space(utf8::decode(text.substr(begin)).code)) break;
    text = text.substr(0, begin);
  }
  return text;
}

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 99;
}

// Digits with single underscores between them, without those; empty: not so.
std::string plain_digits(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() && digit_value(text[i - 1]) < 99 && digit_value(text[i + 1]) < 99;
    if (!between) return {};
  }
  return out;
}

}  // namespace

std::optional<Result<Int>> parse_integer(std::string_view text, std::int64_t base) {
  text = trimmed(text);
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    const std::int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == 0 || base == marked)) {
      base = marked;
      text.remove_prefix(2);
      if (text[0] == '_') text.remove_prefix(1);
    }
  }
  if (base == 0) {
    base = 10;
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != text.npos) return std::nullopt;
  }
  const std::string digits = plain_digits(text);
  if (digits.empty()) return std::nullopt;
  constexpr Int kMost = ~(static_cast<Int>(1) << 127);
  Int value = 0;
  bool fits = true;
  for (const char c : digits) {
    const int digit = digit_value(c);
    if (digit >= base) return std::nullopt;
    fits = fits && value <= (kMost - digit) / base;
    if (fits) value = value * base + digit;
  }
  if (!fits) return Error{Code::invalid, "an integer of more than 128 bits is not supported"};
  return negative ? -value : value;
}

std::optional<double> parse_float(std::string_view text) {
  text = trimmed(text);
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      plain.push_back(text[i]);
      continue;
    }
    const auto digit = [&](std::size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '9'; };
    if (i == 0 || !digit(i - 1) || !digit(i + 1)) return std::nullopt;
  }
  // Only what Python knows: no hexadecimal floats, no nan(...).
  std::string_view body = plain;
  if (!body.empty() && (body[0] == '-' || body[0] == '+')) body.remove_prefix(1);
  if (body.empty()) return std::nullopt;
  std::string lower;
  for (const char c : body) lower.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
  const bool word = lower == "inf" || lower == "infinity" || lower == "nan";
  if (!word && body.find_first_not_of("0123456789.eE+-") != body.npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(plain.c_str(), &end);
  if (end != plain.c_str() + plain.size()) return std::nullopt;
  return value;
}

}  // namespace ashlar::text::jinja
