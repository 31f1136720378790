#include "text/jinja/literal.h"

#include <fmt/format.h>

#include <cstdlib>

#include "base/utf8.h"

namespace ashlar::text::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int digit_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// (\d+_)*\d+ from `at`: its end; `at` itself if there is none.
std::size_t digits_end(std::string_view text, std::size_t at) {
  if (at >= text.size() || !is_digit(text[at])) return at;
  while (at < text.size() &&
         (is_digit(text[at]) || (text[at] == '_' && at + 1 < text.size() && is_digit(text[at + 1]))))
    ++at;
  return at;
}

// The end of a float; 0: it is none.
std::size_t float_end(std::string_view text) {
  std::size_t at = digits_end(text, 0);
  bool fraction = false;
  if (at < text.size() && text[at] == '.') {
    const std::size_t end = digits_end(text, at + 1);
    if (end > at + 1) at = end, fraction = true;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    const std::size_t sign = at + 1 < text.size() && (text[at + 1] == '+' || text[at + 1] == '-');
    const std::size_t end = digits_end(text, at + 1 + sign);
    if (end > at + 1 + sign) return end;
  }
  return fraction ? at : 0;
}

Result<NumberLiteral> scan_integer(std::string_view text) {
  int base = 10;
  std::size_t at = 0;
  if (text[0] == '0' && text.size() > 1) {
    const char mark = static_cast<char>(text[1] | 0x20);
    base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    // The prefix needs a digit after it, perhaps behind one underscore.
    if (base != 10) {
      const std::size_t first = 2 + (text.size() > 2 && text[2] == '_');
      if (first < text.size() && digit_value(text[first]) < base)
        at = 2;
      else
        base = 10;
    }
  }
  const bool only_zeros = base == 10 && text[0] == '0';
  NumberLiteral literal;
  constexpr Int kMost = ~(static_cast<Int>(1) << 127);
  for (; at < text.size(); ++at) {
    if (text[at] == '_') {
      if (at + 1 < text.size() && at > 0 && digit_value(text[at + 1]) < (only_zeros ? 1 : base)) continue;
      break;
    }
    const int digit = digit_value(text[at]);
    if (digit >= (only_zeros ? 1 : base)) break;
    if (literal.integer > (kMost - digit) / base) {
      return Error{Code::invalid, "an integer of more than 128 bits is not supported"};
    }
    literal.integer = literal.integer * base + digit;
  }
  literal.length = at;
  return literal;
}

}  // namespace

Result<NumberLiteral> scan_number(std::string_view text, bool after_dot) {
  const std::size_t end = after_dot ? 0 : float_end(text);
  if (end == 0) return scan_integer(text);
  std::string plain;
  for (const char c : text.substr(0, end)) {
    if (c != '_') plain.push_back(c);
  }
  return NumberLiteral{.length = end, .is_float = true, .floating = std::strtod(plain.c_str(), nullptr)};
}

Result<std::string> unescape(std::string_view written) {
  std::string out;
  out.reserve(written.size());
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written[i] != '\\') {
      out.push_back(written[i]);
      continue;
    }
    if (++i == written.size()) return Error{Code::invalid, "\\ at end of string"};
    const char c = written[i];
    const auto hex = [&](std::size_t digits) -> Result<char32_t> {
      char32_t code = 0;
      for (std::size_t k = 1; k <= digits; ++k) {
        const int value = i + k < written.size() ? digit_value(written[i + k]) : 99;
        if (value > 15) {
          return Error{Code::invalid, c == 'x'   ? "truncated \\xXX escape"
                                      : c == 'u' ? "truncated \\uXXXX escape"
                                                 : "truncated \\UXXXXXXXX escape"};
        }
        code = code * 16 + static_cast<char32_t>(value);
      }
      i += digits;
      return code;
    };
    switch (c) {
      case '\n':
        break;
      case '\\':
        out.push_back('\\');
        break;
      case '\'':
        out.push_back('\'');
        break;
      case '"':
        out.push_back('"');
        break;
      case 'a':
        out.push_back('\a');
        break;
      case 'b':
        out.push_back('\b');
        break;
      case 'f':
        out.push_back('\f');
        break;
      case 'n':
        out.push_back('\n');
        break;
      case 'r':
        out.push_back('\r');
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'v':
        out.push_back('\v');
        break;
      case 'x':
      case 'u':
      case 'U': {
        const char32_t code = TRY(hex(c == 'x' ? 2 : c == 'u' ? 4 : 8));
        if (code > 0x10FFFF) return Error{Code::invalid, "illegal Unicode character"};
        if (code >= 0xD800 && code < 0xE000) return Error{Code::invalid, "surrogates not allowed in a string"};
        utf8::append(out, code);
        break;
      }
      case 'N':
        return Error{Code::invalid, "characters by name (\\N{...}) are not supported"};
      default:
        if (c >= '0' && c <= '7') {
          char32_t code = 0;
          std::size_t k = 0;
          for (; k < 3 && i + k < written.size() && written[i + k] >= '0' && written[i + k] <= '7'; ++k) {
            code = code * 8 + static_cast<char32_t>(written[i + k] - '0');
          }
          i += k - 1;
          utf8::append(out, code);
        } else if (static_cast<unsigned char>(c) < 0x80) {
          out.push_back('\\');
          out.push_back(c);
        } else {
          // Jinja spells such a character as an escape first, so the backslash
          // before it is doubled and the spelling stays.
          const auto step = utf8::decode(written.substr(i));
          const auto code = static_cast<unsigned>(step.code);
          out.append(code < 0x100     ? fmt::format("\\x{:02x}", code)
                     : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                                      : fmt::format("\\U{:08x}", code));
          i += step.bytes - 1;
        }
    }
  }
  return out;
}

}  // namespace ashlar::text::jinja
