#include "base/base64.h"

#include <algorithm>

namespace ashlar {

void append_base64(std::string& out, std::span<const unsigned char> bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - at);
    unsigned word = 0;
    for (std::size_t i = 0; i < 3; ++i) word = word << 8 | (i < count ? bytes[at + i] : 0u);
    for (std::size_t digit = 0; digit < 4; ++digit)
      out.push_back(digit <= count ? kDigits[word >> (18 - 6 * digit) & 63] : '=');
  }
}

}  // namespace ashlar
