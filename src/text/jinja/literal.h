// Numbers and strings as they are written in a template.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

struct NumberLiteral {
  std::size_t length = 0;  // bytes
  bool is_float = false;
  Int integer = 0;
  double floating = 0;
};

// The number that `text` begins with, a digit. `after_dot`: a dot stands before
// it, so that it is an index and no fraction. invalid: beyond 128 bits.
Result<NumberLiteral> scan_number(std::string_view text, bool after_dot);

// What stands between quotes, its escapes as Python reads them. invalid: a broken
// escape.
Result<std::string> unescape(std::string_view written);

}  // namespace ashlar::text::jinja
