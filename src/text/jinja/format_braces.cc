#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/access.h"
#include "text/jinja/format.h"
#include "text/jinja/markup.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

Result<std::int64_t> number_at(std::string_view& text) {
  std::int64_t value = 0;
  while (!text.empty() && text[0] >= '0' && text[0] <= '9') {
    value = value * 10 + (text[0] - '0');
    if (value > static_cast<std::int64_t>(1) << 40) return template_error("Too many decimal digits in format string");
    text.remove_prefix(1);
  }
  return value;
}

// [[fill]align][sign][#][0][width][grouping][.precision][type]
Result<FormatSpec> parse_spec(std::string_view text) {
  FormatSpec spec;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '=' || c == '^'; };
  if (!text.empty()) {
    const std::size_t first = utf8::decode(text).bytes;
    if (text.size() > first && is_align(text[first])) {
      spec.fill = std::string(text.substr(0, first));
      spec.align = text[first];
      text.remove_prefix(first + 1);
    } else if (is_align(text[0])) {
      spec.align = text[0];
      text.remove_prefix(1);
    }
  }
  const auto eat = [&](std::string_view any) {
    const bool found = !text.empty() && any.find(text[0]) != any.npos;
    const char c = found ? text[0] : '\0';
    if (found) text.remove_prefix(1);
    return c;
  };
  if (const char sign = eat("+- ")) spec.sign = sign;
  spec.alternate = eat("#") != '\0';
  if (eat("0") != '\0' && spec.align == '\0') spec.fill = "0", spec.align = '=';
  spec.width = TRY(number_at(text));
  spec.grouping = eat(",_");
  if (eat(".") != '\0') {
    if (text.empty() || text[0] < '0' || text[0] > '9') return template_error("Format specifier missing precision");
    spec.precision = TRY(number_at(text));
  }
  if (text.size() > 1) return template_error("Invalid format specifier");
  if (!text.empty()) spec.type = text[0];
  return spec;
}

Error unknown_type(char type, const Value& value) {
  return template_error(fmt::format("Unknown format code '{}' for object of type '{}'", type, type_name(value)));
}

Result<std::string> format_text(Runtime& runtime, const Value& value, FormatSpec spec) {
  if (spec.type != '\0' && spec.type != 's') return unknown_type(spec.type, value);
  if (spec.sign != '-') return template_error("Sign not allowed in string format specifier");
  if (spec.alternate) return template_error("Alternate form (#) not allowed in string format specifier");
  if (spec.grouping != '\0') return template_error(fmt::format("Cannot specify '{}' with 's'.", spec.grouping));
  if (spec.align == '=') {
    if (spec.fill != "0") return template_error("'=' alignment not allowed in string format specifier");
    spec.align = '<';
  }
  std::string_view text = value.text();
  if (spec.precision >= 0) text = slice_points(text, 0, static_cast<std::size_t>(spec.precision), false);
  return pad(runtime, "", text, spec, '<');
}

// format(value, spec).
Result<std::string> format_value(Runtime& runtime, const Value& value, std::string_view text) {
  if (text.empty()) return to_text(runtime, value);
  const FormatSpec spec = TRY(parse_spec(text));
  if (value.is_string()) return format_text(runtime, value, spec);
  const bool float_type = spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (value.is(Kind::floating) || (value.is_integral() && float_type)) {
    if (spec.type != '\0' && spec.type != 'n' && !float_type) return unknown_type(spec.type, value);
    return format_float(runtime, value.as_double(), spec);
  }
  if (value.is_integral()) {
    if (spec.precision >= 0) return template_error("Precision not allowed in integer format specifier");
    if (spec.type == 'c') {
      const Int code = value.as_integer();
      if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return template_error("%c arg not in range(0x110000)");
      std::string shown;
      utf8::append(shown, static_cast<char32_t>(code));
      return pad(runtime, "", shown, spec, '<');
    }
    if (spec.type != '\0' && std::string_view("bdnoxX").find(spec.type) == std::string_view::npos) {
      return unknown_type(spec.type, value);
    }
    const bool groups = spec.type == '\0' || spec.type == 'd' || (spec.grouping == '_' && spec.type != 'n');
    if (spec.grouping != '\0' && !groups) {
      return template_error(fmt::format("Cannot specify '{}' with '{}'.", spec.grouping, spec.type));
    }
    return format_integer(runtime, value.as_integer(), spec);
  }
  return template_error(fmt::format("unsupported format string passed to {}.__format__", type_name(value)));
}

class BraceFormat {
 public:
  BraceFormat(Runtime& runtime, bool markup, const Arguments& arguments)
      : runtime_(runtime), markup_(markup), arguments_(arguments) {}

  // `depth`: how many levels of fields within fields are still allowed.
  Result<std::string> run(std::string_view text, int depth) {
    if (depth < 0) return template_error("Max string recursion exceeded");
    TRY(runtime_.budget.walk(text.size()));
    std::string out;
    while (!text.empty()) {
      const std::size_t brace = std::min(text.find_first_of("{}"), text.size());
      out.append(text.substr(0, brace));
      text.remove_prefix(brace);
      if (text.empty()) break;
      if (text.size() > 1 && text[1] == text[0]) {
        out.push_back(text[0]);
        text.remove_prefix(2);
        continue;
      }
      if (text[0] == '}') return template_error("Single '}' encountered in format string");
      if (text.size() == 1) return template_error("Single '{' encountered in format string");
      const std::size_t end = TRY(field_end(text));
      out.append(TRY(field(text.substr(1, end - 1), depth)));
      TRY(runtime_.budget.afford(out.size()));
      text.remove_prefix(end + 1);
    }
    return out;
  }

 private:
  // The brace that closes the one `text` begins with. In an index any brace is text.
  static Result<std::size_t> field_end(std::string_view text) {
    int open = 0;
    bool index = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '[' && open == 1) index = true;
      if (text[i] == ']') index = false;
      if (index) continue;
      if (text[i] == '{') ++open;
      if (text[i] == '}' && --open == 0) return i;
    }
    return template_error("expected '}' before end of string");
  }

  Result<std::string> field(std::string_view text, int depth) {
    // name [! conversion] [: spec]; a colon or ! within [...] belongs to the name.
    std::size_t end = 0;
    for (bool index = false; end < text.size(); ++end) {
      if (text[end] == '[') index = true;
      if (text[end] == ']') index = false;
      if (!index && (text[end] == ':' || text[end] == '!')) break;
    }
    const std::string_view name = text.substr(0, end);
    text.remove_prefix(end);
    char conversion = '\0';
    if (!text.empty() && text[0] == '!') {
      if (text.size() < 2) return template_error("end of string while looking for conversion specifier");
      conversion = text[1];
      text.remove_prefix(2);
      if (!text.empty() && text[0] != ':') return template_error("expected ':' after conversion specifier");
    }
    if (!text.empty()) text.remove_prefix(1);
    Value value = TRY(look_up(name));
    const bool safe = value.is_string() && value.as<String>().markup;
    if (conversion != '\0') value = TRY(convert(value, conversion));
    const std::string spec = TRY(run(text, depth - 1));
    std::string shown = TRY(format_value(runtime_, value, spec));
    return markup_ && !safe ? escape_html(shown) : shown;
  }

  Result<Value> convert(const Value& value, char conversion) {
    if (conversion == 's') return runtime_.string(TRY(to_text(runtime_, value)));
    if (conversion == 'r' || conversion == 'a') return runtime_.string(TRY(repr(runtime_, value)));
    return template_error(fmt::format("Unknown conversion specifier {}", conversion));
  }

  Result<Value> look_up(std::string_view name) {
    const std::size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = TRY(first(name.substr(0, end)));
    name.remove_prefix(end);
    while (!name.empty()) {
      const bool attribute = name[0] == '.';
      name.remove_prefix(1);
      const std::size_t stop = attribute ? std::min(name.find_first_of(".["), name.size()) : name.find(']');
      if (stop == name.npos) return template_error("Missing ']' in format string");
      if (stop == 0) return template_error("Empty attribute in format string");
      const std::string_view part = name.substr(0, stop);
      name.remove_prefix(stop + !attribute);
      if (!attribute && !name.empty() && name[0] != '.' && name[0] != '[') {
        return template_error("Only '.' or '[' may follow ']' in format field specifier");
      }
      if (attribute) {
        const Value key = TRY(runtime_.string(std::string(part)));
        value = TRY(get_attribute(runtime_, value, key));
      } else if (std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; })) {
        std::string_view digits = part;
        const Value index = Value::integer(TRY(number_at(digits)));
        value = TRY(get_item(runtime_, value, index));
      } else {
        const Value key = TRY(runtime_.string(std::string(part)));
        value = TRY(get_item(runtime_, value, key));
      }
    }
    return value;
  }

  Result<Value> first(std::string_view name) {
    const bool number = std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; });
    if (!number) {
      for (const auto& [given, value] : arguments_.named) {
        TRY(runtime_.budget.spend(1));
        if (given == name) return value;
      }
      std::string quoted;
      append_quoted(quoted, name);
      return template_error(quoted);
    }
    const bool automatic = name.empty();
    if ((automatic && numbering_ == Numbering::manual) || (!automatic && numbering_ == Numbering::automatic)) {
      return template_error("cannot switch between manual field specification and automatic field numbering");
    }
    numbering_ = automatic ? Numbering::automatic : Numbering::manual;
    const auto at = automatic ? next_++ : static_cast<std::size_t>(TRY(number_at(name)));
    if (at >= arguments_.positional.size()) {
      return template_error("tuple index out of range");
    }
    return arguments_.positional[at];
  }

  enum class Numbering : std::uint8_t { unknown, manual, automatic };

  Runtime& runtime_;
  const bool markup_;
  const Arguments& arguments_;
  Numbering numbering_ = Numbering::unknown;
  std::size_t next_ = 0;
};

}  // namespace

Result<Value> format_braces(Runtime& runtime, const Value& string, const Arguments& arguments) {
  const bool markup = string.as<String>().markup;
  return runtime.string(TRY(BraceFormat(runtime, markup, arguments).run(string.text(), 2)), markup);
}

}  // namespace ashlar::text::jinja
