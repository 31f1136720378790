// Values as text: Python's str() and repr(), and json.dumps().
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

// str(). A string gives itself, an undefined value nothing.
Result<std::string> to_text(Runtime& runtime, const Value& value);
Status append_text(Runtime& runtime, std::string& out, const Value& value);
// As to_text(), but Markup stays Markup (soft_str).
Result<Value> to_string_value(Runtime& runtime, const Value& value);

Result<std::string> repr(Runtime& runtime, const Value& value);
void append_quoted(std::string& out, std::string_view text);  // repr of a str

std::string integer_text(Int value);
// The shortest digits that read back as the same number, as Python shows them.
std::string float_text(double value);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level's indentation; none: one line
  std::string item_separator = ", ", key_separator = ": ";
};
// json.dumps(). invalid: something JSON has no form for.
Result<std::string> to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

}  // namespace ashlar::text::jinja
