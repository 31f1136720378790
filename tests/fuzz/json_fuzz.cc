// Request bodies: whatever parses is written out again and reads back equal.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json_full.h"
#include "base/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = ashlar::parse_json(text);
  if (!json) {
    if (json.error().message.empty()) std::abort();
    return 0;
  }
  const std::string written = ashlar::dump_json(*json);
  const auto again = ashlar::parse_json(written);
  if (!again || ashlar::dump_json(*again) != written) std::abort();
  if (json->is_string()) {
    std::string by_hand;
    ashlar::append_json_string(by_hand, json->get_ref<const std::string&>());
    const auto back = ashlar::parse_json(by_hand);
    if (!back || *back != *json) std::abort();
  }
  return 0;
}
