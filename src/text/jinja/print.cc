#include "text/jinja/print.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/utf8.h"
#include "text/jinja/evaluate.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {

std::string integer_text(Int value) {
  if (value >= INT64_MIN && value <= INT64_MAX) return std::to_string(static_cast<std::int64_t>(value));
  std::string digits;
  const bool negative = value < 0;
  auto rest = negative ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  for (; rest != 0; rest /= 10) digits.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
  if (negative) digits.push_back('-');
  return {digits.rbegin(), digits.rend()};
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view shown(buffer, static_cast<std::size_t>(end - buffer));
  std::string out;
  if (shown.front() == '-') out.push_back('-'), shown.remove_prefix(1);
  const std::size_t e = shown.find('e');
  int exponent = 0;
  const char* digits_of_exponent = shown.data() + e + 1 + (shown[e + 1] == '+');
  std::from_chars(digits_of_exponent, shown.data() + shown.size(), exponent);
  std::string digits(1, shown[0]);
  if (e > 2) digits.append(shown.substr(2, e - 2));
  if (exponent < -4 || exponent >= 16) {
    out.push_back(digits[0]);
    if (digits.size() > 1) out.append(".").append(digits, 1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() < whole) digits.resize(whole, '0');
  out.append(digits, 0, whole).append(".");
  return digits.size() > whole ? out.append(digits, whole) : out.append("0");
}

void append_quoted(std::string& out, std::string_view text) {
  const bool doubles = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = doubles ? '"' : '\'';
  out.push_back(quote);
  for (std::size_t i = 0; i < text.size();) {
    const auto step = utf8::decode(text.substr(i));
    const char32_t c = step.code;
    if (c == static_cast<unsigned char>(quote) || c == '\\')
      out.push_back('\\'), out.push_back(static_cast<char>(c));
    else if (c == '\n')
      out.append("\\n");
    else if (c == '\r')
      out.append("\\r");
    else if (c == '\t')
      out.append("\\t");
    else if (c >= 0x20 && c < 0x7F)
      out.push_back(static_cast<char>(c));
    else if (c >= 0x80 && (char_class(c) & kPrintable) != 0)
      out.append(text.substr(i, step.bytes));
    else if (c < 0x100)
      out.append(fmt::format("\\x{:02x}", static_cast<unsigned>(c)));
    else if (c < 0x10000)
      out.append(fmt::format("\\u{:04x}", static_cast<unsigned>(c)));
    else
      out.append(fmt::format("\\U{:08x}", static_cast<unsigned>(c)));
    i += step.bytes;
  }
  out.push_back(quote);
}

namespace {

// repr() of whatever nests.
class Printer {
 public:
  Printer(Runtime& runtime, std::string& out) : runtime_(runtime), out_(out) {}

  Status append(const Value& value) {
    TRY(runtime_.budget.spend(1));
    switch (value.kind()) {
      case Kind::missing:
        return put("missing");
      case Kind::undefined:
        return put("Undefined");
      case Kind::none:
        return put("None");
      case Kind::boolean:
        return put(value.as_bool() ? "True" : "False");
      case Kind::integer:
        return put(integer_text(value.as_integer()));
      case Kind::floating:
        return put(float_text(value.as_double()));
      case Kind::string:
        return append_string(value.as<String>());
      case Kind::list:
        return append_items(value.as<List>().items, "[", "]");
      case Kind::tuple:
        return append_items(value.as<List>().items, "(", value.as<List>().items.size() == 1 ? ",)" : ")");
      case Kind::dict:
        return append_dict(value.as<Dict>());
      case Kind::view:
        return append_view(value);
      case Kind::range: {
        const auto& r = value.as<Range>();
        out_.append("range(").append(integer_text(r.start)).append(", ").append(integer_text(r.stop));
        if (r.step != 1) out_.append(", ").append(integer_text(r.step));
        return put(")");
      }
      case Kind::space:
        return append_space(value.as<Space>());
      case Kind::macro:
        return append_macro(value.as<Macro>());
      case Kind::loop: {
        auto& loop = value.as<Loop>();
        const std::size_t length = TRY(loop.length(runtime_));
        return put(fmt::format("<LoopContext {}/{}>", loop.index0 + 1, length));
      }
      case Kind::iterator:
        return put(fmt::format("<{}>", value.as<Iterator>().label()));
      case Kind::function: {
        const auto& function = value.as<Function>();
        if (function.self.is(Kind::missing)) return put(fmt::format("<function {}>", function.name));
        return put(fmt::format("<built-in method {} of {} object>", function.name, type_name(function.self)));
      }
      case Kind::cycler:
        return put("<jinja2.utils.Cycler object>");
      case Kind::joiner:
        return put("<jinja2.utils.Joiner object>");
    }
    return {};
  }

 private:
  Status put(std::string_view text) {
    out_.append(text);
    return {};
  }

  Status append_string(const String& string) {
    TRY(runtime_.budget.walk(string.text.size()));
    TRY(runtime_.budget.afford(out_.size() + string.text.size()));
    if (string.markup) out_.append("Markup(");
    append_quoted(out_, string.text);
    if (string.markup) out_.append(")");
    return {};
  }

  Status append_items(const std::vector<Value>& items, std::string_view open, std::string_view close) {
    const Descent descent(runtime_);
    if (!descent.allowed()) return runtime_.budget.too_deep();
    TRY(runtime_.budget.afford(out_.size()));
    out_.append(open);
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.append(", ");
      TRY(append(items[i]));
    }
    return put(close);
  }

  Status append_dict(const Dict& dict) {
    const Descent descent(runtime_);
    if (!descent.allowed()) return runtime_.budget.too_deep();
    TRY(runtime_.budget.afford(out_.size()));
    out_.append("{");
    for (std::size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) out_.append(", ");
      TRY(append(dict.entries[i].key));
      out_.append(": ");
      TRY(append(dict.entries[i].value));
    }
    return put("}");
  }

  Status append_view(const Value& value) {
    const auto& view = value.as<View>();
    std::vector<Value> items;
    for (const auto& entry : view.dict->entries) {
      if (view.of == View::Of::keys)
        items.push_back(entry.key);
      else if (view.of == View::Of::values)
        items.push_back(entry.value);
      else
        items.push_back(TRY(runtime_.tuple({entry.key, entry.value})));
    }
    out_.append(type_name(value)).append("(");
    TRY(append_items(items, "[", "]"));
    return put(")");
  }

  Status append_space(const Space& space) {
    // A namespace may hold itself; Python's dict shows that as {...}.
    if (std::ranges::find(open_, &space) != open_.end()) return put("<Namespace {...}>");
    if (open_.size() >= static_cast<std::size_t>(runtime_.budget.limits().depth)) return runtime_.budget.too_deep();
    open_.push_back(&space);
    out_.append("<Namespace ");
    TRY(append_dict(*space.attributes));
    open_.pop_back();
    return put(">");
  }

  Status append_macro(const Macro& macro) {
    out_.append("<Macro ");
    if (macro.name().empty())
      out_.append("anonymous");
    else
      append_quoted(out_, macro.name());
    return put(">");
  }

  Runtime& runtime_;
  std::string& out_;
  std::vector<const Space*> open_;
};

}  // namespace

Status append_text(Runtime& runtime, std::string& out, const Value& value) {
  if (value.is_string()) {
    TRY(runtime.budget.walk(value.text().size()));
    out.append(value.text());
    return {};
  }
  if (value.is_undefined()) return {};
  return Printer(runtime, out).append(value);
}

Result<std::string> to_text(Runtime& runtime, const Value& value) {
  std::string out;
  TRY(append_text(runtime, out, value));
  return out;
}

Result<Value> to_string_value(Runtime& runtime, const Value& value) {
  if (value.is_string()) return value;
  return runtime.string(TRY(to_text(runtime, value)));
}

Result<std::string> repr(Runtime& runtime, const Value& value) {
  std::string out;
  TRY(Printer(runtime, out).append(value));
  return out;
}

}  // namespace ashlar::text::jinja
