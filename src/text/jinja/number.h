// Python's int() and float() of a text.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "text/jinja/value.h"

namespace ashlar::text::jinja {

// nullopt: it is no integer. The inner result is an error if it needs more than
// 128 bits. A base of 0 takes it from the prefix.
std::optional<Result<Int>> parse_integer(std::string_view text, std::int64_t base);
std::optional<double> parse_float(std::string_view text);

}  // namespace ashlar::text::jinja
