#include "gateway/routing/hints.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string>

#include "net/http_text.h"

namespace ashlar::gateway {

CacheControl parse_cache_control(std::string_view header) {
  CacheControl out;
  while (!header.empty()) {
    const auto comma = std::min(header.find(','), header.size());
    std::string_view word = header.substr(0, comma);
    header.remove_prefix(std::min(comma + 1, header.size()));
    while (word.starts_with(' ')) word.remove_prefix(1);
    while (word.ends_with(' ')) word.remove_suffix(1);
    const std::string lower = net::lower(word);
    if (lower == "no-cache") out.no_cache = true;
    if (lower == "no-store") out.no_store = true;
    if (lower == "ashlar-cache") out.wanted = true;
    if (lower.starts_with("max-age=")) {
      std::uint32_t seconds = 0;
      const char* end = lower.data() + lower.size();
      if (const auto read = std::from_chars(lower.data() + 8, end, seconds); read.ec == std::errc{} && read.ptr == end)
        out.max_age = std::chrono::seconds(seconds);
    }
  }
  return out;
}

RouteHints hints_of(const engine::Request& request) {
  return {.session = request.sender.session,
          .data_classes = request.sender.data_classes,
          .cache = parse_cache_control(request.sender.cache_control)};
}

}  // namespace ashlar::gateway
