// Python's two ways to fill in a text: "%d items" % 3 and "{} items".format(3).
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/runtime.h"

namespace ashlar::text::jinja {

// string % arguments.
Result<Value> format_percent(Runtime& runtime, const Value& string, const Value& arguments);

// string.format(...), attributes and items looked up under the sandbox's eye.
Result<Value> format_braces(Runtime& runtime, const Value& string, const Arguments& arguments);

// What both are made of.
struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > = ^
  char sign = '-';    // - + or space
  bool alternate = false;
  bool upper = false;
  char grouping = '\0';  // , or _
  std::int64_t width = 0;
  std::int64_t precision = -1;
  char type = '\0';
};
// A number's digits as `spec.type` (b d o x, or e f g %) wants them, with sign,
// padded to the width.
Result<std::string> format_integer(Runtime& runtime, Int value, const FormatSpec& spec);
Result<std::string> format_float(Runtime& runtime, double value, const FormatSpec& spec);
// `sign` and prefix stay before what '=' alignment fills in.
Result<std::string> pad(Runtime& runtime, std::string_view prefix, std::string_view text, const FormatSpec& spec,
                        char otherwise);

}  // namespace ashlar::text::jinja
