// Any bytes as the header of a file of packed weights: an error, or sections that
// lie one after the other within the file. The check is set right, or nothing but
// the check would be tested.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "models/packed_image.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ashlar::models;
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  // Bit 0 of byte 48, where the check stands: set it right.
  if (size >= 56 && data[48] % 2 == 0) {
    std::uint32_t sections;
    std::memcpy(&sections, data + 12, sizeof sections);
    if (sections <= (size - 56) / 8) {
      const std::uint64_t check = packed_header_check(std::span<const std::byte, 56>(bytes.data(), 56),
                                                      std::span(bytes).subspan(56, 8 * std::size_t{sections}));
      std::memcpy(bytes.data() + 48, &check, sizeof check);
    }
  }
  for (const std::uint64_t file_bytes : {std::uint64_t{size}, std::uint64_t{4096}, std::uint64_t{16384}}) {
    const auto header = parse_packed_header(bytes, file_bytes);
    if (!header) continue;
    std::uint64_t sum = 0;
    for (const std::uint64_t section : header->sections) {
      if (section > file_bytes) std::abort();
      sum += section;
    }
    if (sum > file_bytes) std::abort();
  }
  return 0;
}
