// Filters that change a text.
#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/filters.h"
#include "text/jinja/format.h"
#include "text/jinja/markup.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

bool is_markup(const Value& value) { return value.is_string() && value.as<String>().markup; }

Status no_arguments(std::string_view name, const Arguments& arguments) {
  TRY(bind<0>(name, arguments, {}, 0));
  return {};
}

template <std::string (*Change)(std::string_view)>
Result<Value> changed(Runtime& runtime, const Value& input, Arguments& arguments) {
  return changed_text<Change>(runtime, TRY(to_string_value(runtime, input)), arguments);
}

Result<Value> string(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("string", arguments));
  return to_string_value(runtime, input);
}

Result<Value> trim(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [chars] = TRY(bind<1>("trim", arguments, {"chars"}, 0));
  const Value text = TRY(to_string_value(runtime, input));
  return runtime.string(std::string(TRY(strip_text(runtime, text.text(), chars, true, true))), is_markup(text));
}

Result<Value> replace(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [from, to, count] = TRY(bind<3>("replace", arguments, {"old", "new", "count"}, 2));
  std::int64_t most = -1;
  if (!count.is(Kind::missing) && !count.is_none()) most = TRY(to_index(count, "count"));
  const std::size_t limit = most < 0 ? static_cast<std::size_t>(-1) : static_cast<std::size_t>(most);
  const auto plain = [&](const Value& value) { return to_text(runtime, value); };
  if (!runtime.autoescape) {
    const std::string text = TRY(plain(input));
    const std::string old_text = TRY(plain(from)), new_text = TRY(plain(to));
    return runtime.string(TRY(replace_text(runtime, text, old_text, new_text, limit)));
  }
  const bool markup = is_markup(input) || is_markup(from) || is_markup(to);
  const auto safe = [&](const Value& value) -> Result<std::string> {
    if (!markup || is_markup(value)) return plain(value);
    return escape_html(TRY(plain(value)));
  };
  const std::string text = TRY(safe(input)), old_text = TRY(safe(from)), new_text = TRY(safe(to));
  return runtime.string(TRY(replace_text(runtime, text, old_text, new_text, limit)), markup);
}

// Words begin after these; each begins with a capital.
Result<Value> title(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("title", arguments));
  const std::string text = TRY(to_text(runtime, input));
  TRY(runtime.budget.spend(text.size() / 4));
  const auto opens_word = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
  };
  std::string out;
  std::size_t at = 0;
  while (at < text.size()) {
    // A run of separators, then a run of others: each piece is capitalized alone.
    const bool separators = opens_word(utf8::decode(std::string_view(text).substr(at)).code);
    std::size_t end = at;
    while (end < text.size()) {
      const auto step = utf8::decode(std::string_view(text).substr(end));
      if (opens_word(step.code) != separators) break;
      end += step.bytes;
    }
    const std::string_view piece = std::string_view(text).substr(at, end - at);
    const std::size_t first = utf8::decode(piece).bytes;
    out += to_upper(piece.substr(0, first)) + to_lower(piece.substr(first));
    at = end;
  }
  return runtime.string(std::move(out));
}

Result<Value> escape(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("escape", arguments));
  if (is_markup(input)) return input;
  const std::string text = TRY(to_text(runtime, input));
  TRY(runtime.budget.afford(text.size() * 5));
  return runtime.string(escape_html(text), true);
}

Result<Value> force_escape(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("forceescape", arguments));
  const std::string text = TRY(to_text(runtime, input));
  TRY(runtime.budget.afford(text.size() * 5));
  return runtime.string(escape_html(text), true);
}

Result<Value> safe(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("safe", arguments));
  return runtime.string(TRY(to_text(runtime, input)), true);
}

Result<Value> format(Runtime& runtime, const Value& input, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return template_error("can't handle positional and keyword arguments at the same time");
  }
  const Value text = TRY(to_string_value(runtime, input));
  if (arguments.named.empty()) {
    return format_percent(runtime, text, TRY(runtime.tuple(std::move(arguments.positional))));
  }
  Ref<Dict> named(new Dict);
  for (auto& [name, value] : arguments.named) {
    Value key = TRY(runtime.string(name));
    TRY(runtime.insert(*named, std::move(key), std::move(value)));
  }
  return format_percent(runtime, text, TRY(runtime.dict(std::move(named))));
}

Result<Value> tojson(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [ascii, indent, separators, sort] =
      TRY(bind<4>("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JsonStyle style;
  style.ensure_ascii = truthy(ascii);
  style.sort_keys = truthy(sort);
  if (!indent.is(Kind::missing) && !indent.is_none()) {
    if (indent.is_string()) {
      style.indent = std::string(indent.text());
    } else {
      const std::int64_t width = TRY(to_index(indent, "indent"));
      if (width > 10'000) return runtime.budget.too_big();
      style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(0, width)), ' ');
    }
    style.item_separator = ",";
  }
  if (!separators.is(Kind::missing) && !separators.is_none()) {
    const auto pair = TRY(collect(runtime, separators));
    if (pair.size() != 2) return template_error("separators must be a pair");
    if (!pair[0].is_string() || !pair[1].is_string()) return template_error("separators must be strings");
    style.item_separator = pair[0].text();
    style.key_separator = pair[1].text();
  }
  return runtime.string(TRY(to_json(runtime, input, style)));
}

std::string quote_url(std::string_view text, bool query) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    if (plain) {
      out.push_back(c);
    } else if (query && c == ' ') {
      out.push_back('+');
    } else {
      out.push_back('%');
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
  }
  return out;
}

Result<Value> urlencode(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("urlencode", arguments));
  if (input.is_string() || !iterable(input)) {
    return runtime.string(quote_url(TRY(to_text(runtime, input)), false));
  }
  std::string out;
  const auto append = [&](const Value& key, const Value& value) -> Status {
    if (!out.empty()) out.push_back('&');
    const std::string name = TRY(to_text(runtime, key)), shown = TRY(to_text(runtime, value));
    out += quote_url(name, true) + "=" + quote_url(shown, true);
    return runtime.budget.afford(out.size() * 3);
  };
  if (input.is(Kind::dict)) {
    for (const auto& entry : input.as<Dict>().entries) TRY(append(entry.key, entry.value));
    return runtime.string(std::move(out));
  }
  for (const Value& item : TRY(collect(runtime, input))) {
    const auto pair = TRY(collect(runtime, item));
    if (pair.size() != 2) return template_error("not enough values to unpack (expected 2)");
    TRY(append(pair[0], pair[1]));
  }
  return runtime.string(std::move(out));
}

// Without tags and comments, blanks run together, entities read.
Result<Value> striptags(Runtime& runtime, const Value& input, Arguments& arguments) {
  TRY(no_arguments("striptags", arguments));
  std::string text = TRY(to_text(runtime, input));
  TRY(runtime.budget.walk(text.size() * 8));
  const auto without = [](std::string_view from, std::string_view open, std::string_view close) {
    std::string out;
    std::size_t at = 0;
    while (true) {
      const std::size_t begin = from.find(open, at);
      const std::size_t end = begin == from.npos ? from.npos : from.find(close, begin + open.size());
      if (end == from.npos) return out.append(from.substr(at));
      out.append(from.substr(at, begin - at));
      at = end + close.size();
    }
  };
  text = without(without(text, "<!--", "-->"), "<", ">");
  std::string joined;
  for (std::size_t at = 0; at < text.size();) {
    const auto step = utf8::decode(std::string_view(text).substr(at));
    if (is_space(step.code)) {
      if (!joined.empty() && !joined.ends_with(' ')) joined.push_back(' ');
    } else {
      joined.append(text, at, step.bytes);
    }
    at += step.bytes;
  }
  if (joined.ends_with(' ')) joined.pop_back();
  static constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
      {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#34;", "\""}, {"&#39;", "'"}, {"&amp;", "&"}};
  std::string out;
  for (std::size_t at = 0; at < joined.size();) {
    const auto* entity = std::ranges::find_if(
        kEntities, [&](const auto& e) { return std::string_view(joined).substr(at).starts_with(e.first); });
    if (entity != std::end(kEntities)) {
      out.append(entity->second);
      at += entity->first.size();
    } else {
      out.push_back(joined[at++]);
    }
  }
  return runtime.string(std::move(out));
}

Result<Value> xmlattr(Runtime& runtime, const Value& input, Arguments& arguments) {
  const auto [autospace] = TRY(bind<1>("xmlattr", arguments, {"autospace"}, 0));
  if (input.is_undefined()) return undefined_error(runtime, input);
  if (!input.is(Kind::dict)) {
    return template_error(fmt::format("'{}' object has no attribute 'items'", type_name(input)));
  }
  std::string out;
  for (const auto& [key, value, hash] : input.as<Dict>().entries) {
    if (value.is_none() || value.is_undefined()) continue;
    if (!key.is_string()) return template_error("expected string or bytes-like object");
    if (key.text().find_first_of(" \t\n\r\f\v/>=") != std::string_view::npos) {
      std::string quoted;
      append_quoted(quoted, key.text());
      return template_error("Invalid character in attribute name: " + quoted);
    }
    if (!out.empty()) out.push_back(' ');
    const std::string shown = is_markup(value) ? std::string(value.text()) : escape_html(TRY(to_text(runtime, value)));
    out += escape_unless_markup(key) + "=\"" + shown + "\"";
    TRY(runtime.budget.afford(out.size()));
  }
  if ((autospace.is(Kind::missing) || truthy(autospace)) && !out.empty()) out.insert(0, " ");
  return runtime.string(std::move(out), runtime.autoescape);
}

constexpr Filter kFilters[] = {
    {"string", string},
    {"upper", changed<to_upper>},
    {"lower", changed<to_lower>},
    {"capitalize", changed<to_capitalized>},
    {"title", title},
    {"trim", trim},
    {"replace", replace},
    {"escape", escape},
    {"e", escape},
    {"forceescape", force_escape},
    {"safe", safe},
    {"format", format},
    {"tojson", tojson},
    {"urlencode", urlencode},
    {"striptags", striptags},
    {"xmlattr", xmlattr},
};

}  // namespace

std::span<const Filter> text_filters() { return kFilters; }

}  // namespace ashlar::text::jinja
