#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/utf8.h"
#include "text/jinja/format.h"
#include "text/jinja/markup.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

// repr() with everything beyond ASCII escaped: ascii().
std::string ascii_only(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto step = utf8::decode(text);
    const auto code = static_cast<unsigned>(step.code);
    if (code < 0x80)
      out.push_back(static_cast<char>(code));
    else if (code < 0x100)
      out.append(fmt::format("\\x{:02x}", code));
    else if (code < 0x10000)
      out.append(fmt::format("\\u{:04x}", code));
    else
      out.append(fmt::format("\\U{:08x}", code));
    text.remove_prefix(step.bytes);
  }
  return out;
}

class PercentFormat {
 public:
  PercentFormat(Runtime& runtime, const Value& string, const Value& arguments)
      : runtime_(runtime), text_(string.text()), markup_(string.as<String>().markup), arguments_(arguments) {}

  Result<Value> run() {
    TRY(runtime_.budget.walk(text_.size()));
    while (at_ < text_.size()) {
      const std::size_t sign = std::min(text_.find('%', at_), text_.size());
      out_.append(text_.substr(at_, sign - at_));
      at_ = sign + 1;
      if (sign < text_.size()) TRY(conversion());
      TRY(runtime_.budget.afford(out_.size()));
    }
    const bool mapping = !arguments_.is(Kind::tuple) && !arguments_.is_string() &&
                         (arguments_.is(Kind::dict) || arguments_.is(Kind::list) || arguments_.is_undefined() ||
                          arguments_.is(Kind::range));
    const std::size_t given = arguments_.is(Kind::tuple) ? arguments_.as<List>().items.size() : 1;
    if (!mapping && used_ < given) return template_error("not all arguments converted during string formatting");
    return runtime_.string(std::move(out_), markup_);
  }

 private:
  Result<char> peek() {
    if (at_ >= text_.size()) return template_error("incomplete format");
    return text_[at_];
  }

  Result<Value> next_argument() {
    if (!arguments_.is(Kind::tuple)) {
      if (used_++ > 0) return template_error("not enough arguments for format string");
      return arguments_;
    }
    const auto& items = arguments_.as<List>().items;
    if (used_ >= items.size()) return template_error("not enough arguments for format string");
    return items[used_++];
  }

  // A number, or * for one from the arguments.
  Result<std::int64_t> number() {
    if (TRY(peek()) == '*') {
      ++at_;
      const Value value = TRY(next_argument());
      if (!value.is_integral()) return template_error("* wants int");
      return to_index(value, "width");
    }
    std::int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = std::min<std::int64_t>(value * 10 + (text_[at_++] - '0'), static_cast<std::int64_t>(1) << 40);
    }
    return value;
  }

  Status conversion() {
    std::optional<Value> keyed;
    if (TRY(peek()) == '(') keyed = TRY(key());
    FormatSpec spec;
    bool left = false, zero = false;
    for (bool flags = true; flags;) {
      switch (TRY(peek())) {
        case '-':
          left = true;
          break;
        case '+':
          spec.sign = '+';
          break;
        case ' ':
          if (spec.sign != '+') spec.sign = ' ';
          break;
        case '#':
          spec.alternate = true;
          break;
        case '0':
          zero = true;
          break;
        default:
          flags = false;
      }
      if (flags) ++at_;
    }
    spec.width = TRY(number());
    if (spec.width < 0) left = true, spec.width = -spec.width;
    if (at_ < text_.size() && text_[at_] == '.') {
      ++at_;
      spec.precision = std::max<std::int64_t>(0, TRY(number()));
    }
    if (const char c = TRY(peek()); c == 'h' || c == 'l' || c == 'L') ++at_;
    spec.type = TRY(peek());
    ++at_;
    if (spec.type == '%') {
      out_.push_back('%');
      return {};
    }
    const Value value = keyed ? *keyed : TRY(next_argument());
    spec.align = left ? '<' : '>';
    return convert(spec, zero && !left, value);
  }

  Result<Value> key() {
    if (!arguments_.is(Kind::dict)) return template_error("format requires a mapping");
    const std::size_t begin = ++at_;
    for (int open = 1; open > 0; ++at_) {
      if (at_ >= text_.size()) return template_error("incomplete format key");
      if (text_[at_] == '(') ++open;
      if (text_[at_] == ')') --open;
    }
    const std::string_view name = text_.substr(begin, at_ - 1 - begin);
    used_ = 1;
    const auto at = arguments_.as<Dict>().find(name);
    if (at < 0) {
      std::string quoted;
      append_quoted(quoted, name);
      return template_error(quoted);
    }
    return arguments_.as<Dict>().entries[static_cast<std::size_t>(at)].value;
  }

  Status convert(FormatSpec spec, bool zero, const Value& value) {
    switch (spec.type) {
      case 's':
        return text(spec, TRY(to_text(runtime_, value)), value.is_string() && value.as<String>().markup);
      case 'r':
        return text(spec, TRY(repr(runtime_, value)), false);
      case 'a':
        return text(spec, ascii_only(TRY(repr(runtime_, value))), false);
      case 'c':
        return character(spec, value);
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        return integer(spec, zero, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        break;
      default:
        return template_error(fmt::format("unsupported format character '{}' (0x{:x}) at index {}", spec.type,
                                          static_cast<unsigned>(static_cast<unsigned char>(spec.type)), at_ - 1));
    }
    if (value.is_undefined()) return undefined_error(runtime_, value);
    if (!value.is_number()) {
      return template_error(fmt::format("must be real number, not {}", type_name(value)));
    }
    if (zero) spec.fill = "0", spec.align = '=';
    out_.append(TRY(format_float(runtime_, value.as_double(), spec)));
    return {};
  }

  Status text(const FormatSpec& spec, std::string shown, bool safe) {
    if (markup_ && !safe) shown = escape_html(shown);
    if (spec.precision >= 0)
      shown = std::string(slice_points(shown, 0, static_cast<std::size_t>(spec.precision), false));
    out_.append(TRY(pad(runtime_, "", shown, spec, '>')));
    return {};
  }

  Status character(const FormatSpec& spec, const Value& value) {
    std::string shown;
    if (value.is_string() && count_points(value.text()) == 1) {
      shown = value.text();
    } else if (value.is_integral()) {
      const Int code = value.as_integer();
      if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
        return template_error("%c arg not in range(0x110000)");
      }
      utf8::append(shown, static_cast<char32_t>(code));
    } else {
      return template_error("%c requires int or char");
    }
    FormatSpec plain = spec;
    plain.precision = -1;
    return text(plain, std::move(shown), false);
  }

  Status integer(FormatSpec spec, bool zero, const Value& value) {
    Value number = value;
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (value.is_undefined()) return undefined_error(runtime_, value);
    if (decimal && value.is(Kind::floating)) {
      if (!std::isfinite(value.as_double())) return template_error("cannot convert float NaN or infinity to integer");
      if (std::abs(value.as_double()) > 1e38)
        return template_error("an integer of more than 128 bits is not supported");
      number = Value::integer(static_cast<Int>(value.as_double()));
    }
    if (!number.is_integral()) {
      return template_error(fmt::format("%{} format: {} is required, not {}", spec.type,
                                        decimal ? "a real number" : "an integer", type_name(value)));
    }
    if (decimal) spec.type = 'd';
    if (zero) spec.fill = "0", spec.align = '=';
    out_.append(TRY(format_integer(runtime_, number.as_integer(), spec)));
    return {};
  }

  Runtime& runtime_;
  const std::string_view text_;
  const bool markup_;
  const Value& arguments_;
  std::size_t at_ = 0;
  std::size_t used_ = 0;
  std::string out_;
};

}  // namespace

Result<Value> format_percent(Runtime& runtime, const Value& string, const Value& arguments) {
  return PercentFormat(runtime, string, arguments).run();
}

}  // namespace ashlar::text::jinja
