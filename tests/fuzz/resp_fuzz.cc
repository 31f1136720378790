// Redis answers as strangers send them, in pieces whose sizes the first byte chooses.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "store/redis/resp.h"

namespace {

using namespace ashlar;
using namespace ashlar::store;

std::size_t count(const resp::Value& value, std::size_t depth, const resp::Limits& limits) {
  CHECK(depth <= limits.depth, "a value beyond its depth");
  CHECK(value.text.size() <= limits.bytes, "a text beyond its size");
  std::size_t sum = 1;
  for (const resp::Value& item : value.items) sum += count(item, depth + 1, limits);
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const resp::Limits limits{.bytes = 4096, .items = 100, .depth = 5};
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::size_t piece = data[0] == 0 ? bytes.size() : data[0];
  resp::Reader reader(limits);
  while (!bytes.empty()) {
    const std::string_view now = bytes.substr(0, piece);
    bytes.remove_prefix(now.size());
    const Status read = reader.read(now, [&](const resp::Value& value) {
      CHECK(count(value, 0, limits) <= limits.items, "more values than allowed");
    });
    if (!read) return 0;
  }
  return 0;
}
