#include "base/duration.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

namespace ashlar {
namespace {

constexpr double kLongest = 10 * 365 * 86'400.0;  // seconds

// In seconds; 0: there is no such unit.
double unit_of(std::string_view name) {
  constexpr std::pair<std::string_view, double> kUnits[] = {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3},
                                                            {"s", 1},     {"m", 60},    {"h", 3600},
                                                            {"d", 86'400}, {"w", 604'800}};
  const auto found = std::ranges::find(kUnits, name, &std::pair<std::string_view, double>::first);
  return found == std::end(kUnits) ? 0 : found->second;
}

}  // namespace

Result<std::chrono::milliseconds> duration_of(double seconds) {
  if (!std::isfinite(seconds)) return Error{Code::invalid, "it is no number of seconds"};
  if (seconds < 0) return std::chrono::milliseconds(-1);
  return std::chrono::milliseconds(std::llround(std::min(seconds, kLongest) * 1000));
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const Error bad{Code::invalid, fmt::format("'{}' is no time such as 5m, 1h30m, 90 (seconds) or -1", text)};
  std::string_view rest = text;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  double seconds = 0;
  for (bool first = true; first || !rest.empty(); first = false) {
    double number = 0;
    const auto [end, failed] =
        std::from_chars(rest.data(), rest.data() + rest.size(), number, std::chars_format::fixed);
    if (failed != std::errc{} || !(number >= 0)) return bad;  // a second sign, "nan", "inf"
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    const std::size_t letters = std::min(rest.find_first_of("0123456789."), rest.size());
    const bool alone = first && rest.empty();
    const double unit = alone ? 1 : unit_of(rest.substr(0, letters));
    if (unit == 0) return bad;
    rest.remove_prefix(letters);
    seconds += number * unit;
  }
  if (!std::isfinite(seconds)) return bad;
  return duration_of(negative && seconds > 0 ? -1 : seconds);
}

}  // namespace ashlar
