#include "text/charsmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace ashlar::text {
namespace {

constexpr std::size_t kUnit = sizeof(std::uint32_t);

// Unicode's longest is 33 bytes, for U+FDFA. Without bounds a made-up map could
// walk a whole text from each position, or blow a short one up.
constexpr std::size_t kMaxKey = 64;
constexpr std::size_t kMaxReplacement = 64;

std::uint32_t read_unit(std::string_view bytes, std::size_t at) {
  static_assert(std::endian::native == std::endian::little);
  std::uint32_t unit;
  std::memcpy(&unit, bytes.data() + at, kUnit);
  return unit;
}

std::uint32_t label(std::uint32_t unit) { return unit & 0x800000FFu; }  // a value unit never equals a byte
bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t offset(std::uint32_t unit) { return unit >> 10 << ((unit & 0x200u) >> 6); }

}  // namespace

Result<Charsmap> Charsmap::create(std::string blob) {
  Charsmap map;
  if (blob.empty()) return map;
  if (blob.size() < kUnit)
    return Error{Code::corrupt, fmt::format("the vocabulary's precompiled_charsmap has {} bytes", blob.size())};
  const std::size_t trie = read_unit(blob, 0);
  if (trie % kUnit != 0 || trie > blob.size() - kUnit)
    return Error{Code::corrupt,
                 fmt::format("the vocabulary's precompiled_charsmap has {} bytes and says that its trie has {}",
                             blob.size(), trie)};
  map.units_ = trie / kUnit;
  map.blob_ = std::move(blob);
  return map;
}

std::uint32_t Charsmap::unit(std::size_t index) const {
  return index < units_ ? read_unit(blob_, kUnit + index * kUnit) : 0;
}

Charsmap::Match Charsmap::longest(std::string_view text) const {
  Match best;
  if (units_ == 0) return best;
  const std::string_view strings = std::string_view(blob_).substr(kUnit + units_ * kUnit);
  std::size_t node = offset(unit(0));
  for (std::size_t i = 0; i < std::min(text.size(), kMaxKey); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0) break;
    node ^= byte;
    const std::uint32_t at = unit(node);
    if (label(at) != byte) break;
    node ^= offset(at);
    if (!has_value(at)) continue;
    const std::size_t begin = unit(node) & 0x7FFFFFFFu;
    if (begin > strings.size()) break;
    const std::string_view rest = strings.substr(begin, kMaxReplacement + 1);
    const std::size_t length = std::min(rest.find('\0'), rest.size());
    if (length <= kMaxReplacement) best = {i + 1, rest.substr(0, length)};
  }
  return best;
}

}  // namespace ashlar::text
