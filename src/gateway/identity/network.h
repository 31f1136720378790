// Addresses and ranges of them (RFC 4632, RFC 4291): where a key may be used
// from, and where a request of ours may go.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::gateway {

// IPv4 stands as IPv4-mapped IPv6, so that both are compared alike.
struct Address {
  std::array<std::uint8_t, 16> bytes{};

  bool operator==(const Address&) const = default;
};

// "10.1.2.3", "::1"; nullopt: neither.
std::optional<Address> parse_address(std::string_view text);
// Whether it is of the public Internet: neither this machine, a private network, a
// link, a cloud's metadata service, nor any of these in another form (mapped, NAT64, 6to4).
bool is_public(const Address& address);
// Of HttpRequest::peer: "127.0.0.1:40312" or "[::1]:40312".
std::optional<Address> address_of_peer(std::string_view peer);

class Network {
 public:
  // "10.0.0.0/8", "2001:db8::/32", or one address. invalid: neither, or bits set
  // beyond the prefix, which are most often a slip ("10.0.0.1/8").
  static Result<Network> parse(std::string_view text);
  bool contains(const Address& address) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  Address address_;
  int bits_ = 128;
};

Result<std::vector<Network>> parse_networks(const std::vector<std::string>& texts);
bool contains_any(const std::vector<Network>& networks, const Address& address);

}  // namespace ashlar::gateway
