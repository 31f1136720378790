#include "gateway/upstreams/addresses.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace ashlar::gateway {
namespace {

enum class Kind { open, loopback, closed, never };

struct Range {
  std::uint32_t network;
  int bits;
  Kind kind;
};

constexpr std::uint32_t ip(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  return a << 24 | b << 16 | c << 8 | d;
}

constexpr Range kRanges[] = {
    {ip(0, 0, 0, 0), 8, Kind::never},      {ip(10, 0, 0, 0), 8, Kind::closed},
    {ip(100, 64, 0, 0), 10, Kind::closed}, {ip(127, 0, 0, 0), 8, Kind::loopback},
    {ip(169, 254, 0, 0), 16, Kind::never}, {ip(172, 16, 0, 0), 12, Kind::closed},
    {ip(192, 0, 0, 0), 24, Kind::never},   {ip(192, 168, 0, 0), 16, Kind::closed},
    {ip(198, 18, 0, 0), 15, Kind::closed}, {ip(224, 0, 0, 0), 3, Kind::never},
};

Kind kind_of_v4(std::uint32_t address) {
  for (const Range& range : kRanges)
    if ((address ^ range.network) >> (32 - range.bits) == 0) return range.kind;
  return Kind::open;
}

Kind kind_of_v6(const std::array<std::uint8_t, 16>& b) {
  const auto starts = [&](std::initializer_list<std::uint8_t> prefix) {
    return std::memcmp(b.data(), std::data(prefix), prefix.size()) == 0;
  };
  const auto v4_at = [&](std::size_t i) { return kind_of_v4(ip(b[i], b[i + 1], b[i + 2], b[i + 3])); };
  if (starts({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff})) return v4_at(12);        // mapped
  if (starts({0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0})) return v4_at(12);  // NAT64
  if (starts({0x20, 0x02})) return v4_at(2);                                       // 6to4
  if (starts({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})) return b[15] == 1 ? Kind::loopback : Kind::never;
  if (starts({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})) return Kind::never;  // compatible, long gone
  if (starts({0x00, 0x64, 0xff, 0x9b, 0, 1})) return Kind::closed;       // local NAT64
  if (starts({0x20, 0x01, 0, 0})) return Kind::never;                    // Teredo
  if ((b[0] & 0xfe) == 0xfc) return Kind::closed;                        // unique local
  if (b[0] == 0xfe && (b[1] & 0x80) == 0x80) return Kind::never;         // link-local, site-local
  if (b[0] == 0xff) return Kind::never;
  return Kind::open;
}

}  // namespace

Status check_address(std::string_view text, bool url_is_local, bool allow_private) {
  const std::string address(text.substr(0, text.find('%')));
  in_addr v4{};
  std::array<std::uint8_t, 16> v6{};
  Kind kind = Kind::never;
  if (::inet_pton(AF_INET, address.c_str(), &v4) == 1)
    kind = kind_of_v4(ntohl(v4.s_addr));
  else if (::inet_pton(AF_INET6, address.c_str(), v6.data()) == 1)
    kind = kind_of_v6(v6);
  else
    return Error{Code::invalid, fmt::format("'{}' is no address", text)};
  if (kind == Kind::open) return {};
  if (kind == Kind::loopback && (url_is_local || allow_private)) return {};
  if (kind == Kind::closed && allow_private) return {};
  if (kind == Kind::never) return Error{Code::forbidden, fmt::format("{} is an address that no upstream has", address)};
  return Error{Code::forbidden,
               fmt::format("{} is an address of a private network; `allow_private: true` allows it", address)};
}

}  // namespace ashlar::gateway
