#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/access.h"
#include "text/jinja/format.h"
#include "text/jinja/markup.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/operate.h"
#include "text/jinja/print.h"
#include "text/jinja/search.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {

Result<std::string_view> text_argument(const Value& value, std::string_view method) {
  if (value.is_string()) return value.text();
  return template_error(fmt::format("{}() argument must be str, not {}", method, type_name(value)));
}

Result<Value> list_of(Runtime& runtime, const std::vector<std::string_view>& texts, const Value& self, bool as_tuple) {
  TRY(runtime.budget.spend(texts.size()));
  std::vector<Value> items;
  items.reserve(texts.size());
  for (const std::string_view text : texts) {
    items.push_back(TRY(runtime.string(std::string(text), self.as<String>().markup)));
  }
  return as_tuple ? runtime.tuple(std::move(items)) : runtime.list(std::move(items));
}

Result<std::string_view> strip_text(Runtime& runtime, std::string_view text, const Value& chars, bool left,
                                    bool right) {
  TRY(runtime.budget.walk(text.size() * 4));
  std::vector<char32_t> set;
  const bool blanks = chars.is(Kind::missing) || chars.is_none();
  if (!blanks) {
    if (!chars.is_string()) return template_error("strip arg must be None or str");
    TRY(runtime.budget.walk(chars.text().size() * 8));
    for (std::string_view rest = chars.text(); !rest.empty();) {
      const auto step = utf8::decode(rest);
      set.push_back(step.code);
      rest.remove_prefix(step.bytes);
    }
    std::ranges::sort(set);
  }
  const auto stripped = [&](char32_t code) { return blanks ? is_space(code) : std::ranges::binary_search(set, code); };
  while (left && !text.empty()) {
    const auto step = utf8::decode(text);
    if (!stripped(step.code)) break;
    text.remove_prefix(step.bytes);
  }
  while (right && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!stripped(utf8::decode(text.substr(begin)).code)) break;
    text = text.substr(0, begin);
  }
  return text;
}

Result<std::string> replace_text(Runtime& runtime, std::string_view text, std::string_view from, std::string_view to,
                                 std::size_t most) {
  TRY(runtime.budget.walk(text.size() + from.size()));
  std::string out;
  if (from.empty()) {  // `to` goes between all characters
    const std::size_t places = std::min(most, count_points(text) + 1);
    TRY(runtime.budget.spend(places));
    if (to.size() > 0 && places > runtime.budget.limits().value_bytes / to.size()) return runtime.budget.too_big();
    TRY(runtime.budget.afford(text.size() + places * to.size()));
    for (std::size_t done = 0; done < places; ++done) {
      out.append(to);
      if (text.empty()) break;
      const std::size_t bytes = utf8::decode(text).bytes;
      out.append(text.substr(0, bytes));
      text.remove_prefix(bytes);
    }
    return out.append(text);
  }
  TRY(runtime.budget.afford(text.size() / from.size() * sizeof(std::size_t)));
  const auto places = find_all(text, from, most);
  TRY(runtime.budget.spend(places.size()));
  if (to.size() > from.size()) {
    if (places.size() > runtime.budget.limits().value_bytes / to.size()) return runtime.budget.too_big();
    TRY(runtime.budget.afford(text.size() + places.size() * to.size()));
  }
  std::size_t begin = 0;
  for (const std::size_t at : places) {
    out.append(text.substr(begin, at - begin)).append(to);
    begin = at + from.size();
  }
  return out.append(text.substr(begin));
}

namespace {

Result<std::string> padding(Runtime& runtime, std::int64_t count, std::string_view fill) {
  std::string out;
  if (count <= 0) return out;
  const auto many = static_cast<std::size_t>(count);
  if (many > runtime.budget.limits().value_bytes / fill.size()) return runtime.budget.too_big();
  TRY(runtime.budget.afford(many * fill.size()));
  TRY(runtime.budget.walk(many * fill.size()));
  for (std::size_t i = 0; i < many; ++i) out.append(fill);
  return out;
}

}  // namespace

Result<std::string> center_text(Runtime& runtime, const Value& string, std::int64_t width, std::string_view fill) {
  const auto missing = std::max<std::int64_t>(0, width - static_cast<std::int64_t>(string.as<String>().points()));
  const std::int64_t left = missing / 2 + (missing & width & 1);
  std::string out = TRY(padding(runtime, left, fill));
  out.append(string.text());
  return out.append(TRY(padding(runtime, missing - left, fill)));
}

Result<std::string_view> text_window(Runtime& runtime, const Value& self, const Value& from, const Value& to) {
  auto& object = self.as<String>();
  TRY(runtime.budget.walk(object.text.size()));
  if (from.is(Kind::missing) && to.is(Kind::missing)) return std::string_view(object.text);
  const auto length = static_cast<std::int64_t>(object.points());
  // Python: a start beyond the end finds nothing, not even the empty string.
  if (from.is_integral() && from.as_integer() > length) return std::string_view();
  const auto stride = TRY(slice_stride(length, from, to, Value()));
  const auto first = static_cast<std::size_t>(stride.first);
  return slice_points(object.text, first, first + static_cast<std::size_t>(stride.count), object.ascii());
}

namespace {

template <bool Left, bool Right>
Result<Value> strip(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [chars] = TRY(bind<1>("strip", arguments, {"/chars"}, 0));
  return runtime.string(std::string(TRY(strip_text(runtime, self.text(), chars, Left, Right))),
                        self.as<String>().markup);
}

Result<Value> replace(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [from, to, count] = TRY(bind<3>("replace", arguments, {"/old", "/new", "/count"}, 2));
  TRY(text_argument(from, "replace"));
  TRY(text_argument(to, "replace"));
  std::int64_t most = -1;
  if (!count.is(Kind::missing)) most = TRY(to_index(count, "count"));
  const bool markup = self.as<String>().markup;
  const std::string old_text = markup ? escape_unless_markup(from) : std::string(from.text());
  const std::string new_text = markup ? escape_unless_markup(to) : std::string(to.text());
  const std::size_t limit = most < 0 ? static_cast<std::size_t>(-1) : static_cast<std::size_t>(most);
  return runtime.string(TRY(replace_text(runtime, self.text(), old_text, new_text, limit)), markup);
}

enum class Side : std::uint8_t { left, right, both };

template <Side Where>
Result<Value> justify(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [width, fill] = TRY(bind<2>("justify", arguments, {"/width", "/fillchar"}, 1));
  std::string_view character = " ";
  if (!fill.is(Kind::missing)) {
    if (!fill.is_string()) {
      return template_error(fmt::format("The fill character must be a unicode character, not {}", type_name(fill)));
    }
    if (count_points(fill.text()) != 1) {
      return template_error("The fill character must be exactly one character long");
    }
    character = fill.text();
  }
  const std::int64_t wanted = TRY(to_index(width, "width"));
  TRY(runtime.budget.walk(self.text().size()));
  std::string out;
  if constexpr (Where == Side::both) {
    out = TRY(center_text(runtime, self, wanted, character));
  } else {
    const std::string pad =
        TRY(padding(runtime, wanted - static_cast<std::int64_t>(self.as<String>().points()), character));
    out = Where == Side::left ? std::string(self.text()) + pad : pad + std::string(self.text());
  }
  return runtime.string(std::move(out), self.as<String>().markup);
}

Result<Value> zfill(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [width] = TRY(bind<1>("zfill", arguments, {"/width"}, 1));
  const std::int64_t wanted = TRY(to_index(width, "width"));
  std::string zeros = TRY(padding(runtime, wanted - static_cast<std::int64_t>(self.as<String>().points()), "0"));
  const std::string_view text = self.text();
  const bool sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  std::string out(text.substr(0, sign));
  out.append(zeros).append(text.substr(sign));
  return runtime.string(std::move(out), self.as<String>().markup);
}

template <bool Prefix>
Result<Value> remove_affix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [affix] = TRY(bind<1>("remove", arguments, {"/affix"}, 1));
  std::string_view text = self.text();
  const std::string_view part = TRY(text_argument(affix, Prefix ? "removeprefix" : "removesuffix"));
  TRY(runtime.budget.walk(text.size()));
  if (Prefix && text.starts_with(part)) text.remove_prefix(part.size());
  if (!Prefix && text.ends_with(part)) text.remove_suffix(part.size());
  return runtime.string(std::string(text), self.as<String>().markup);
}

Result<Value> join(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [items] = TRY(bind<1>("join", arguments, {"/iterable"}, 1));
  if (!iterable(items)) return template_error("can only join an iterable");
  const bool markup = self.as<String>().markup;
  const auto walk = TRY(iterate(runtime, items));
  std::string out;
  Value item;
  for (std::size_t i = 0; TRY(walk->next(runtime, item)); ++i) {
    if (!item.is_string()) {
      return template_error(fmt::format("sequence item {}: expected str instance, {} found", i, type_name(item)));
    }
    if (i > 0) out.append(self.text());
    if (markup)
      out.append(escape_unless_markup(item));
    else
      out.append(item.text());
    TRY(runtime.budget.walk(item.text().size() + self.text().size()));
    TRY(runtime.budget.afford(out.size()));
  }
  return runtime.string(std::move(out), markup);
}

Result<Value> expand_tabs(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [size] = TRY(bind<1>("expandtabs", arguments, {"tabsize"}, 0));
  const std::int64_t tab = size.is(Kind::missing) ? 8 : TRY(to_index(size, "tabsize"));
  TRY(runtime.budget.walk(self.text().size()));
  std::string out;
  std::int64_t column = 0;
  for (const char c : self.text()) {
    if (c == '\t') {
      const std::int64_t more = tab > 0 ? tab - column % tab : 0;
      out.append(TRY(padding(runtime, more, " ")));
      column += more;
      TRY(runtime.budget.afford(out.size()));
    } else {
      out.push_back(c);
      if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) ++column;
      if (c == '\n' || c == '\r') column = 0;
    }
  }
  return runtime.string(std::move(out), self.as<String>().markup);
}

Result<Value> format(Runtime& runtime, const Value& self, Arguments& arguments) {
  return format_braces(runtime, self, arguments);
}

Result<Value> format_map(Runtime& runtime, const Value& self, Arguments& arguments) {
  if (!arguments.named.empty()) return template_error("format_map() takes no keyword arguments");
  const auto [map] = TRY(bind<1>("format_map", arguments, {"/mapping"}, 1));
  Arguments named;
  if (map.is(Kind::dict)) {
    for (const auto& entry : map.as<Dict>().entries) {
      TRY(runtime.budget.spend(1));
      if (entry.key.is_string()) named.named.emplace_back(entry.key.text(), entry.value);
    }
  }
  return format_braces(runtime, self, named);
}

Result<Value> unsupported(Runtime&, const Value&, Arguments&) {
  return template_error("bytes and translation tables are not supported");
}

constexpr Method kMethods[] = {
    {"strip", strip<true, true>},
    {"lstrip", strip<true, false>},
    {"rstrip", strip<false, true>},
    {"replace", replace},
    {"upper", changed_text<to_upper>},
    {"lower", changed_text<to_lower>},
    {"casefold", changed_text<to_lower>},
    {"capitalize", changed_text<to_capitalized>},
    {"title", changed_text<to_title>},
    {"swapcase", changed_text<swap_case>},
    {"ljust", justify<Side::left>},
    {"rjust", justify<Side::right>},
    {"center", justify<Side::both>},
    {"zfill", zfill},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"join", join},
    {"expandtabs", expand_tabs},
    {"format", format},
    {"format_map", format_map},
    {"encode", unsupported},
    {"maketrans", unsupported},
    {"translate", unsupported},
};

}  // namespace

std::span<const Method> string_methods() { return kMethods; }

}  // namespace ashlar::text::jinja
