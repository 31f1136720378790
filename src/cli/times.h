// Times as commands and the admin API read and show them. UTC throughout.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::cli {

std::string utc(std::int64_t unix_seconds);  // "2026-11-21T19:15:00Z"

// "2026-11-01T08:00:00Z", "2026-11-01T08:00Z" or "2026-11-01", in milliseconds since 1970. nullopt: not such a text, or
// no such day.
std::optional<std::int64_t> parse_utc(const std::string& text);
// The same, or how long ago: "24h", "7d". invalid.
Result<std::int64_t> parse_when(const std::string& text);
// "30d", "12h"; `what` begins the sentence of what is wrong.
Result<std::chrono::seconds> parse_span(const std::string& text, std::string_view what);
// When something ends, in seconds of Unix: after so long, on a day or at a time; "" and "never": 0. invalid.
Result<std::int64_t> parse_expiry(const std::string& text, std::string_view what);

}  // namespace ashlar::cli
