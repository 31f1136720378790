// Python's textwrap.wrap() of one line, as the filter wordwrap calls it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar::text::jinja {

struct WrapStyle {
  std::int64_t width = 79;  // at least 1
  bool break_long_words = true;
  bool break_on_hyphens = true;
};
std::vector<std::string> wrap_line(std::string_view line, const WrapStyle& style);

}  // namespace ashlar::text::jinja
