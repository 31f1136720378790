// What the methods of str share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/methods.h"
#include "text/jinja/runtime.h"

namespace ashlar::text::jinja {

// Argument `value` of a method as text. invalid: it is no string.
Result<std::string_view> text_argument(const Value& value, std::string_view method);
// A list of strings, Markup if `self` is.
Result<Value> list_of(Runtime& runtime, const std::vector<std::string_view>& texts, const Value& self,
                      bool as_tuple = false);

// What str.strip() leaves: `chars` missing or none means blanks.
Result<std::string_view> strip_text(Runtime& runtime, std::string_view text, const Value& chars, bool left, bool right);
// str.splitlines().
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
// str.replace(), at most `most` times.
Result<std::string> replace_text(Runtime& runtime, std::string_view text, std::string_view from, std::string_view to,
                                 std::size_t most);
// str.center(); width in code points.
Result<std::string> center_text(Runtime& runtime, const Value& string, std::int64_t width, std::string_view fill);
// The part of a string between two code points, as find() and its kin take them.
Result<std::string_view> text_window(Runtime& runtime, const Value& self, const Value& from, const Value& to);

// A method that changes only the characters: upper(), title() ...
template <std::string (*Change)(std::string_view)>
Result<Value> changed_text(Runtime& runtime, const Value& self, Arguments& arguments) {
  TRY((bind<0>("str method", arguments, {}, 0)));
  TRY(runtime.budget.spend(self.text().size() / 4));
  TRY(runtime.budget.afford(self.text().size() * 3));
  return runtime.string(Change(self.text()), self.as<String>().markup);
}

}  // namespace ashlar::text::jinja
