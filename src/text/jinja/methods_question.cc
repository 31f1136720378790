// Methods of str that answer a question: where, how many, whether.
#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/access.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/operate.h"
#include "text/jinja/search.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

constexpr std::array<std::string_view, 3> kWindow = {"/sub", "/start", "/end"};

// Whether a window that begins at `from` exists at all.
bool beyond(const Value& self, const Value& from) {
  return from.is_integral() && from.as_integer() > static_cast<Int>(self.as<String>().points());
}

template <bool FromRight, bool MustFind>
Result<Value> find(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [sub, from, to] = TRY(bind<3>("find", arguments, kWindow, 1));
  const std::string_view needle = TRY(text_argument(sub, "find"));
  const std::string_view window = TRY(text_window(runtime, self, from, to));
  TRY(runtime.budget.walk(needle.size() + window.size()));
  std::size_t at = std::string_view::npos;
  if (!beyond(self, from)) {
    if (!FromRight) {
      at = find_text(window, needle, 0);
    } else if (needle.empty()) {
      at = window.size();
    } else if (const auto places = find_all_from_right(window, needle, 1); !places.empty()) {
      at = places[0];
    }
  }
  if (at == std::string_view::npos) {
    if (MustFind) return template_error("substring not found");
    return Value::integer(-1);
  }
  const auto bytes = static_cast<std::size_t>(window.data() - self.text().data()) + at;
  return Value::integer(static_cast<Int>(count_points(self.text().substr(0, bytes))));
}

Result<Value> count(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [sub, from, to] = TRY(bind<3>("count", arguments, kWindow, 1));
  const std::string_view needle = TRY(text_argument(sub, "count"));
  const std::string_view window = TRY(text_window(runtime, self, from, to));
  if (beyond(self, from)) return Value::integer(0);
  TRY(runtime.budget.walk(needle.size() + window.size()));
  if (needle.empty()) return Value::integer(static_cast<Int>(count_points(window)) + 1);
  TRY(runtime.budget.afford(window.size() / needle.size() * sizeof(std::size_t)));
  return Value::integer(static_cast<Int>(find_all(window, needle, static_cast<std::size_t>(-1)).size()));
}

template <bool Start>
Result<Value> has_affix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [affix, from, to] = TRY(bind<3>(Start ? "startswith" : "endswith", arguments, kWindow, 1));
  const std::string_view window = TRY(text_window(runtime, self, from, to));
  const bool exists = !beyond(self, from);
  const auto matches = [&](const Value& one) -> Result<bool> {
    if (!one.is_string()) {
      return template_error(fmt::format("{} first arg must be str or a tuple of str, not {}",
                                        Start ? "startswith" : "endswith", type_name(one)));
    }
    TRY(runtime.budget.walk(one.text().size()));
    return exists && (Start ? window.starts_with(one.text()) : window.ends_with(one.text()));
  };
  if (!affix.is(Kind::tuple)) return Value::boolean(TRY(matches(affix)));
  for (const Value& one : affix.as<List>().items) {
    if (TRY(matches(one))) return Value::boolean(true);
  }
  return Value::boolean(false);
}

// Whether all characters, of which there is at least one, are of a class.
template <int Flags>
Result<Value> all_of(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("str method", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.text().size() / 4));
  std::string_view rest = self.text();
  if (rest.empty()) return Value::boolean(Flags == kPrintable);
  while (!rest.empty()) {
    const auto step = utf8::decode(rest);
    if ((char_class(step.code) & Flags) == 0) return Value::boolean(false);
    rest.remove_prefix(step.bytes);
  }
  return Value::boolean(true);
}

// islower(), isupper(): some cased character, and none of another case.
template <Case Wanted>
Result<Value> has_case(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("str method", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.text().size() / 4));
  bool seen = false;
  for (std::string_view rest = self.text(); !rest.empty();) {
    const auto step = utf8::decode(rest);
    const Case found = case_of(step.code);
    if (found != Case::none && found != Wanted) return Value::boolean(false);
    seen = seen || found == Wanted;
    rest.remove_prefix(step.bytes);
  }
  return Value::boolean(seen);
}

Result<Value> is_title(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("istitle", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.text().size() / 4));
  bool seen = false, inside = false;
  for (std::string_view rest = self.text(); !rest.empty();) {
    const auto step = utf8::decode(rest);
    const Case found = case_of(step.code);
    if (found == Case::upper || found == Case::title) {
      if (inside) return Value::boolean(false);
      seen = inside = true;
    } else if (found == Case::lower) {
      if (!inside) return Value::boolean(false);
      seen = true;
    } else {
      inside = false;
    }
    rest.remove_prefix(step.bytes);
  }
  return Value::boolean(seen);
}

Result<Value> is_ascii(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("isascii", arguments, {}, 0)));
  TRY(runtime.budget.walk(self.text().size()));
  return Value::boolean(std::ranges::all_of(self.text(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

Result<Value> is_identifier(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("isidentifier", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.text().size() / 4));
  std::string_view rest = self.text();
  bool first = true;
  if (rest.empty()) return Value::boolean(false);
  while (!rest.empty()) {
    const auto step = utf8::decode(rest);
    const int flags = first ? kAlpha : kAlpha | kDecimal;
    if (step.code != '_' && (char_class(step.code) & flags) == 0) return Value::boolean(false);
    first = false;
    rest.remove_prefix(step.bytes);
  }
  return Value::boolean(true);
}

constexpr Method kMethods[] = {
    {"find", find<false, false>},
    {"rfind", find<true, false>},
    {"index", find<false, true>},
    {"rindex", find<true, true>},
    {"count", count},
    {"startswith", has_affix<true>},
    {"endswith", has_affix<false>},
    {"isalpha", all_of<kAlpha>},
    {"isdecimal", all_of<kDecimal>},
    {"isdigit", all_of<kDigit>},
    {"isnumeric", all_of<kNumeric>},
    {"isalnum", all_of<kAlpha | kDecimal | kDigit | kNumeric>},
    {"isspace", all_of<kSpace>},
    {"isprintable", all_of<kPrintable>},
    {"islower", has_case<Case::lower>},
    {"isupper", has_case<Case::upper>},
    {"istitle", is_title},
    {"isascii", is_ascii},
    {"isidentifier", is_identifier},
};

}  // namespace

std::span<const Method> string_question_methods() { return kMethods; }

}  // namespace ashlar::text::jinja
