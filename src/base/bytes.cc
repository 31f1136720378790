#include "base/bytes.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>

namespace ashlar {

std::string to_string(Bytes bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes.count);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) value /= 1024, ++unit;
  return unit == 0 ? fmt::format("{} B", bytes.count) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

Result<Bytes> parse_bytes(std::string_view text) {
  double number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c)
    if (*c != ' ') unit.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(*c))));
  double factor = 0;
  if (unit.empty() || unit == "b") factor = 1;
  else if (unit == "k" || unit == "kib") factor = 1024.0;
  else if (unit == "m" || unit == "mib") factor = 1024.0 * 1024;
  else if (unit == "g" || unit == "gib") factor = 1024.0 * 1024 * 1024;
  else if (unit == "kb") factor = 1e3;
  else if (unit == "mb") factor = 1e6;
  else if (unit == "gb") factor = 1e9;
  if (failed != std::errc{} || factor == 0 || !(number >= 0) || number * factor > 1e18)
    return Error{Code::invalid, fmt::format("'{}' is not a size: write for example 512MiB or 4GiB", text)};
  return Bytes{static_cast<std::uint64_t>(number * factor)};
}

}  // namespace ashlar
