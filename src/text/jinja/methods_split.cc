#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja/methods_text.h"
#include "text/jinja/operate.h"
#include "text/jinja/search.h"
#include "text/jinja/unicode.h"

namespace ashlar::text::jinja {
namespace {

// Words between blanks, from the left; the last takes the rest once `most` cuts
// are made.
std::vector<std::string_view> split_blanks(std::string_view text, std::size_t most) {
  std::vector<std::string_view> words;
  const auto skip = [&](std::size_t at, bool blanks) {
    while (at < text.size()) {
      const auto step = utf8::decode(text.substr(at));
      if (is_space(step.code) != blanks) break;
      at += step.bytes;
    }
    return at;
  };
  for (std::size_t at = skip(0, true); at < text.size();) {
    if (words.size() == most) {
      words.push_back(text.substr(at));  // with the blanks at its end
      break;
    }
    const std::size_t end = skip(at, false);
    words.push_back(text.substr(at, end - at));
    at = skip(end, true);
  }
  return words;
}

std::vector<std::string_view> split_blanks_from_right(std::string_view text, std::size_t most) {
  auto words = split_blanks(text, static_cast<std::size_t>(-1));
  if (most >= words.size()) return words;
  // The first word takes all that is left of the cuts, with the blanks before it.
  const std::size_t joined = words.size() - most;
  const std::string_view last = words[joined - 1];
  const std::string_view head(text.data(), static_cast<std::size_t>(last.data() + last.size() - text.data()));
  words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(joined));
  words.insert(words.begin(), head);
  return words;
}

std::vector<std::string_view> cut(std::string_view text, std::string_view separator,
                                  const std::vector<std::size_t>& places) {
  std::vector<std::string_view> parts;
  std::size_t begin = 0;
  for (const std::size_t at : places) {
    parts.push_back(text.substr(begin, at - begin));
    begin = at + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

template <bool FromRight>
Result<Value> split(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [separator, maxsplit] = TRY(bind<2>("split", arguments, {"sep", "maxsplit"}, 0));
  std::int64_t wanted = -1;
  if (!maxsplit.is(Kind::missing)) wanted = TRY(to_index(maxsplit, "maxsplit"));
  const std::size_t most = wanted < 0 ? static_cast<std::size_t>(-1) : static_cast<std::size_t>(wanted);
  const std::string_view text = self.text();
  TRY(runtime.budget.walk(text.size() * 2));
  TRY(runtime.budget.afford(text.size() * sizeof(std::size_t)));
  if (separator.is(Kind::missing) || separator.is_none()) {
    return list_of(runtime, FromRight ? split_blanks_from_right(text, most) : split_blanks(text, most), self);
  }
  if (!separator.is_string()) return template_error(fmt::format("must be str or None, not {}", type_name(separator)));
  const std::string_view needle = separator.text();
  if (needle.empty()) return template_error("empty separator");
  return list_of(runtime,
                 cut(text, needle, FromRight ? find_all_from_right(text, needle, most) : find_all(text, needle, most)),
                 self);
}

template <bool FromRight>
Result<Value> partition(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [separator] = TRY(bind<1>("partition", arguments, {"/sep"}, 1));
  const std::string_view needle = TRY(text_argument(separator, "partition"));
  if (needle.empty()) return template_error("empty separator");
  const std::string_view text = self.text();
  TRY(runtime.budget.walk(text.size() * 2));
  const auto places = FromRight ? find_all_from_right(text, needle, 1) : find_all(text, needle, 1);
  if (places.empty()) {
    if (FromRight) return list_of(runtime, {"", "", text}, self, true);
    return list_of(runtime, {text, "", ""}, self, true);
  }
  return list_of(runtime, {text.substr(0, places[0]), needle, text.substr(places[0] + needle.size())}, self, true);
}

bool ends_line(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

Result<Value> splitlines(Runtime& runtime, const Value& self, Arguments& arguments) {
  const auto [keep] = TRY(bind<1>("splitlines", arguments, {"keepends"}, 0));
  TRY(runtime.budget.walk(self.text().size() * 2));
  TRY(runtime.budget.afford(self.text().size() * sizeof(std::string_view)));
  return list_of(runtime, split_lines(self.text(), truthy(keep)), self);
}

constexpr Method kMethods[] = {
    {"split", split<false>},         {"rsplit", split<true>},    {"partition", partition<false>},
    {"rpartition", partition<true>}, {"splitlines", splitlines},
};

}  // namespace

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto step = utf8::decode(text.substr(at));
    const std::size_t end = at;
    at += step.bytes;
    if (!ends_line(step.code)) continue;
    if (step.code == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::span<const Method> string_split_methods() { return kMethods; }

}  // namespace ashlar::text::jinja
