#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "text/jinja/format.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

// No number has more digits than this worth showing; a width may be larger.
constexpr std::int64_t kMostPrecision = 2000;

std::string digits_in_base(unsigned __int128 value, unsigned base, bool upper) {
  const char* symbols = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do out.push_back(symbols[static_cast<unsigned>(value % base)]);
  while ((value /= base) != 0);
  return {out.rbegin(), out.rend()};
}

std::string grouped(std::string_view digits, char separator, std::size_t every) {
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

std::string sign_of(bool negative, char sign) {
  if (negative) return "-";
  return sign == '-' ? "" : std::string(1, sign);
}

std::string print_double(char type, std::int64_t precision, double value, bool alternate) {
  char format[8];
  std::snprintf(format, sizeof format, "%%%s.*%c", alternate ? "#" : "", type);
  const int length = std::snprintf(nullptr, 0, format, static_cast<int>(precision), value);
  std::string out(static_cast<std::size_t>(length) + 1, '\0');
  std::snprintf(out.data(), out.size(), format, static_cast<int>(precision), value);
  out.pop_back();
  return out;
}

// A float without a type: as repr() shows it, or like g but never a bare integer.
std::string print_untyped(double value, std::int64_t precision) {
  if (precision < 0) return float_text(value);
  precision = std::max<std::int64_t>(precision, 1);
  std::string out = print_double('g', precision, value, false);
  if (out.find_first_of(".e") == out.npos) {
    // One digit more than asked would be shown, so the exponent comes sooner.
    if (static_cast<std::int64_t>(out.size()) >= precision) {
      out = print_double('e', precision - 1, value, false);
      const auto e = out.find('e');
      std::string head = out.substr(0, e);
      if (head.find('.') != head.npos) {
        head.erase(head.find_last_not_of('0') + 1);
        if (head.ends_with('.')) head.pop_back();
      }
      return head + out.substr(e);
    }
    out += ".0";
  }
  return out;
}

}  // namespace

Result<std::string> pad(Runtime& runtime, std::string_view prefix, std::string_view text, const FormatSpec& spec,
                        char otherwise) {
  const auto points = static_cast<std::int64_t>(count_points(prefix) + count_points(text));
  std::string out;
  if (spec.width <= points) return out.append(prefix).append(text);
  const auto missing = static_cast<std::size_t>(spec.width - points);
  if (missing > runtime.budget.limits().value_bytes / spec.fill.size()) return runtime.budget.too_big();
  TRY(runtime.budget.afford(missing * spec.fill.size()));
  TRY(runtime.budget.walk(missing * spec.fill.size()));
  const char align = spec.align == '\0' ? otherwise : spec.align;
  std::size_t left = 0;
  if (align == '>') left = missing;
  if (align == '^') left = missing / 2;
  const auto fill = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) out.append(spec.fill);
  };
  fill(left);
  out.append(prefix);
  if (align == '=') fill(missing);
  out.append(text);
  if (align != '=') fill(missing - left);
  return out;
}

Result<std::string> format_integer(Runtime& runtime, Int value, const FormatSpec& spec) {
  const bool negative = value < 0;
  const auto magnitude = negative ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  unsigned base = 10;
  std::string prefix = sign_of(negative, spec.sign);
  switch (spec.type) {
    case 'b':
      base = 2;
      break;
    case 'o':
      base = 8;
      break;
    case 'x':
    case 'X':
      base = 16;
      break;
    default:
      break;
  }
  if (spec.alternate && base != 10) prefix += std::string("0") + spec.type;
  std::string digits = digits_in_base(magnitude, base, spec.type == 'X');
  if (spec.precision > kMostPrecision) return runtime.budget.too_big();
  if (static_cast<std::int64_t>(digits.size()) < spec.precision) {
    digits.insert(0, static_cast<std::size_t>(spec.precision) - digits.size(), '0');
  }
  if (spec.grouping != '\0') {
    // Zeros put in to reach the width are grouped too.
    const std::size_t every = base == 10 ? 3 : 4;
    if (spec.align == '=' && spec.fill == "0") {
      if (spec.width > kMostPrecision) return runtime.budget.too_big();
      while (static_cast<std::int64_t>(prefix.size() + digits.size() + (digits.size() - 1) / every) < spec.width) {
        const auto next = digits.size() + 1;
        digits.insert(0, 1, '0');
        if (static_cast<std::int64_t>(prefix.size() + next + (next - 1) / every) > spec.width) break;
      }
    }
    digits = grouped(digits, spec.grouping, every);
  }
  return pad(runtime, prefix, digits, spec, '>');
}

Result<std::string> format_float(Runtime& runtime, double value, const FormatSpec& spec) {
  if (spec.precision > kMostPrecision) return runtime.budget.too_big();
  const std::string sign = sign_of(std::signbit(value) && !std::isnan(value), spec.sign);
  const double magnitude = std::abs(value);
  const std::int64_t precision = spec.precision < 0 ? 6 : spec.precision;
  std::string text;
  if (std::isnan(value))
    text = "nan";
  else if (std::isinf(value))
    text = "inf";
  else if (spec.type == '%')
    text = print_double('f', precision, magnitude * 100, spec.alternate);
  else if (spec.type == '\0')
    text = print_untyped(magnitude, spec.precision);
  else
    text = print_double(
        static_cast<char>(std::tolower(spec.type)),
        spec.type == 'g' || spec.type == 'G' || spec.type == 'n' ? std::max<std::int64_t>(precision, 1) : precision,
        magnitude, spec.alternate);
  if (spec.grouping != '\0' && std::isfinite(value)) {
    const std::size_t whole = std::min(text.find_first_of(".e"), text.size());
    text = grouped(text.substr(0, whole), spec.grouping, 3) + text.substr(whole);
  }
  if (spec.type == '%') text += '%';
  if (spec.upper || spec.type == 'E' || spec.type == 'F' || spec.type == 'G') {
    std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  }
  return pad(runtime, sign, text, spec, '>');
}

}  // namespace ashlar::text::jinja
