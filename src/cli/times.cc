#include "cli/times.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "base/duration.h"
#include "gateway/identity/key_store.h"

namespace ashlar::cli {

std::string utc(std::int64_t unix_seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     std::chrono::sys_time<std::chrono::seconds>(std::chrono::seconds(unix_seconds)));
}

std::optional<std::int64_t> parse_utc(const std::string& text) {
  std::tm read{};
  for (const char* const form : {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d"}) {
    read = {};
    const char* const end = ::strptime(text.c_str(), form, &read);
    if (end == nullptr || *end != '\0') continue;
    const int day = read.tm_mday;
    const std::time_t seconds = ::timegm(&read);
    if (read.tm_mday == day) return static_cast<std::int64_t>(seconds) * 1000;
  }
  return std::nullopt;
}

Result<std::int64_t> parse_when(const std::string& text) {
  if (const auto at = parse_utc(text)) return *at;
  if (const auto ago = parse_duration(text); ago && ago->count() >= 0) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count() - ago->count();
  }
  return Error{
      Code::invalid,
      fmt::format("'{}' is no time: a UTC day (2026-11-01), a UTC time (2026-11-01T08:00:00Z), or how long ago "
                  "(24h, 7d)",
                  text)};
}

Result<std::chrono::seconds> parse_span(const std::string& text, std::string_view what) {
  const auto parsed = parse_duration(text);
  if (!parsed || parsed->count() < 0)
    return Error{Code::invalid, fmt::format("{}: '{}' is no time such as 30d, 12h or 90m", what, text)};
  return std::chrono::duration_cast<std::chrono::seconds>(*parsed);
}

Result<std::int64_t> parse_expiry(const std::string& text, std::string_view what) {
  if (text.empty() || text == "never") return 0;
  if (const auto at = parse_utc(text)) return *at / 1000;
  const auto after = TRY(parse_span(text, what));
  if (after.count() == 0) return Error{Code::invalid, fmt::format("{}: a key that ends at once is of no use", what)};
  return gateway::system_unix_seconds() + after.count();
}

}  // namespace ashlar::cli
