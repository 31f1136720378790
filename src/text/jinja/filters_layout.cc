// Filters that lay text out: indenting, wrapping, cutting, centring.
#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/filters.h"
#include "text/jinja/markup.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/operate.h"
#include "text/jinja/pretty.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"
#include "text/jinja/wrap.h"

namespace ashlar::text::jinja {
namespace {

Result<Value> indent(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [width, first, blank] = TRY(bind<3>("indent", arguments, {"width", "first", "blank"}, 0));
  if (input.is_undefined()) return undefined_error(runtime, input);
  if (!input.is_string()) {
    return template_error(fmt::format("unsupported operand type(s) for +=: '{}' and 'str'", type_name(input)));
  }
  const bool markup = input.as<String>().markup;
  std::string indention = "    ";
  if (width.is_string()) {
    indention = markup ? escape_unless_markup(width) : std::string(width.text());
  } else if (!width.is(Kind::missing)) {
    const std::int64_t spaces = TRY(to_index(width, "width"));
    if (spaces > 0) TRY(runtime.budget.afford(static_cast<std::size_t>(spaces)));
    indention = std::string(static_cast<std::size_t>(std::max<std::int64_t>(0, spaces)), ' ');
  }
  const std::string text = std::string(input.text()) + "\n";
  TRY(runtime.budget.walk(text.size() * 2));
  TRY(runtime.budget.afford(text.size() * sizeof(std::string_view)));
  const auto lines = split_lines(text, false);
  TRY(runtime.budget.spend(lines.size()));
  std::string out = truthy(first) ? indention : "";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) {
      out.push_back('\n');
      if (truthy(blank) || !lines[i].empty()) out.append(indention);
    }
    out.append(lines[i]);
    TRY(runtime.budget.walk(indention.size()));
    TRY(runtime.budget.afford(out.size()));
  }
  return runtime.string(std::move(out), markup);
}

Result<Value> truncate(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [length, killwords, end, leeway] =
      TRY(bind<4>("truncate", arguments, {"length", "killwords", "end", "leeway"}, 0));
  const std::int64_t wanted = length.is(Kind::missing) ? 255 : TRY(to_index(length, "length"));
  const std::int64_t slack = leeway.is(Kind::missing) || leeway.is_none() ? 5 : TRY(to_index(leeway, "leeway"));
  const std::string tail = end.is(Kind::missing) ? "..." : TRY(to_text(runtime, end));
  const auto tail_points = static_cast<std::int64_t>(count_points(tail));
  if (wanted < tail_points) return template_error(fmt::format("expected length >= {}, got {}", tail_points, wanted));
  if (slack < 0) return template_error(fmt::format("expected leeway >= 0, got {}", slack));
  if (static_cast<std::int64_t>(TRY(jinja::length(runtime, input))) <= wanted + std::min<std::int64_t>(slack, 1 << 30))
    return input;
  if (!input.is_string()) return template_error(fmt::format("'{}' object cannot be truncated", type_name(input)));
  auto& object = input.as<String>();
  std::string_view kept = slice_points(object.text, 0, static_cast<std::size_t>(wanted - tail_points), object.ascii());
  if (!truthy(killwords)) kept = kept.substr(0, std::min(kept.rfind(' '), kept.size()));
  return runtime.string(std::string(kept) + (object.markup ? escape_html(tail) : tail), object.markup);
}

Result<Value> center(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [width] = TRY(bind<1>("center", arguments, {"width"}, 0));
  const Value text = TRY(to_string_value(runtime, input));
  const std::int64_t wanted = width.is(Kind::missing) ? 80 : TRY(to_index(width, "width"));
  TRY(runtime.budget.walk(text.text().size()));
  return runtime.string(TRY(center_text(runtime, text, wanted, " ")), text.as<String>().markup);
}

Result<Value> wordwrap(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [width, break_long, wrapstring, hyphens] =
      TRY(bind<4>("wordwrap", arguments, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}, 0));
  if (!input.is_string())
    return template_error(fmt::format("'{}' object has no attribute 'splitlines'", type_name(input)));
  const std::string_view text = input.text();
  TRY(runtime.budget.spend(text.size()));
  TRY(runtime.budget.afford(text.size() * 48));  // its words, one by one
  const auto yes = [](const Value& v) { return v.is(Kind::missing) || truthy(v); };
  WrapStyle style;
  if (!width.is(Kind::missing)) style.width = TRY(to_index(width, "width"));
  style.break_long_words = yes(break_long);
  style.break_on_hyphens = yes(hyphens);
  if (style.width <= 0) return template_error(fmt::format("invalid width {} (must be > 0)", style.width));
  std::string newline = "\n";
  if (!wrapstring.is(Kind::missing) && !wrapstring.is_none()) newline = TRY(text_argument(wrapstring, "wordwrap"));
  std::string out;
  bool first = true;
  for (const std::string_view line : split_lines(text, false)) {
    if (!std::exchange(first, false)) out.append(newline);
    const auto wrapped = wrap_line(line, style);
    TRY(runtime.budget.spend(wrapped.size()));
    for (std::size_t i = 0; i < wrapped.size(); ++i) {
      if (i > 0) out.append(newline);
      out.append(wrapped[i]);
      TRY(runtime.budget.walk(newline.size()));
      TRY(runtime.budget.afford(out.size()));
    }
  }
  return runtime.string(std::move(out));
}

Result<Value> wordcount(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("wordcount", arguments, {}, 0)));
  const std::string text = TRY(to_text(runtime, input));
  TRY(runtime.budget.spend(text.size() / 4));
  Int words = 0;
  bool inside = false;
  for (std::string_view rest = text; !rest.empty();) {
    const auto step = utf8::decode(rest);
    const bool word = step.code == '_' || (char_class(step.code) & (kAlpha | kNumeric)) != 0;
    words += word && !inside;
    inside = word;
    rest.remove_prefix(step.bytes);
  }
  return Value::integer(words);
}

Result<Value> pprint(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY((bind<0>("pprint", arguments, {}, 0)));
  return runtime.string(TRY(pretty(runtime, input)));
}

Result<Value> urlize(Runtime&, const Value&, Arguments&) {
  return template_error("the filter urlize is not supported in chat templates");
}

constexpr Filter kFilters[] = {
    {"indent", indent},       {"truncate", truncate}, {"center", center}, {"wordwrap", wordwrap},
    {"wordcount", wordcount}, {"pprint", pprint},     {"urlize", urlize},
};

}  // namespace

std::span<const Filter> layout_filters() { return kFilters; }

}  // namespace ashlar::text::jinja
