#include "gateway/identity/network.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace ashlar::gateway {

std::optional<Address> parse_address(std::string_view text) {
  if (text.size() >= INET6_ADDRSTRLEN) return std::nullopt;
  const std::string whole(text);
  Address out;
  if (inet_pton(AF_INET6, whole.c_str(), out.bytes.data()) == 1) return out;
  std::array<std::uint8_t, 4> four{};
  if (inet_pton(AF_INET, whole.c_str(), four.data()) != 1) return std::nullopt;
  out.bytes[10] = out.bytes[11] = 0xff;
  std::ranges::copy(four, out.bytes.begin() + 12);
  return out;
}

bool is_public(const Address& address) {
  static const auto closed =
      parse_networks({"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
                      "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3", "::/96", "64:ff9b::/96",
                      "64:ff9b:1::/48", "2002::/16", "fc00::/7", "fe80::/9", "ff00::/8"});
  CHECK(closed, "these are networks");
  return !contains_any(*closed, address);
}

std::optional<Address> address_of_peer(std::string_view peer) {
  const auto colon = peer.rfind(':');
  if (colon == peer.npos) return std::nullopt;
  peer = peer.substr(0, colon);
  if (peer.starts_with('[') && peer.ends_with(']')) peer = peer.substr(1, peer.size() - 2);
  return parse_address(peer);
}

Result<Network> Network::parse(std::string_view text) {
  const Error bad{Code::invalid,
                  fmt::format("'{}' is no network such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7", text.substr(0, 64))};
  const auto slash = text.find('/');
  const auto address = parse_address(text.substr(0, slash));
  if (!address) return bad;
  const bool v4 = text.substr(0, slash).find(':') == text.npos;
  Network out;
  out.text_ = text;
  out.address_ = *address;
  if (slash != text.npos) {
    const auto bits = text.substr(slash + 1);
    const auto [end, failed] = std::from_chars(bits.data(), bits.data() + bits.size(), out.bits_);
    if (failed != std::errc{} || end != bits.data() + bits.size() || out.bits_ < 0 || out.bits_ > (v4 ? 32 : 128))
      return bad;
    if (v4) out.bits_ += 96;
  }
  for (int bit = out.bits_; bit < 128; ++bit)
    if (out.address_.bytes[static_cast<std::size_t>(bit / 8)] & (0x80 >> (bit % 8)))
      return Error{Code::invalid,
                   fmt::format("'{}' has bits beyond its prefix: name the network's first address", text)};
  return out;
}

bool Network::contains(const Address& address) const {
  for (int bit = 0; bit < bits_; bit += 8) {
    const int used = std::min(8, bits_ - bit);
    const auto mask = static_cast<std::uint8_t>(0xff << (8 - used));
    const auto at = static_cast<std::size_t>(bit / 8);
    if ((address.bytes[at] ^ address_.bytes[at]) & mask) return false;
  }
  return true;
}

Result<std::vector<Network>> parse_networks(const std::vector<std::string>& texts) {
  std::vector<Network> out;
  for (const std::string& text : texts) out.push_back(TRY(Network::parse(text)));
  return out;
}

bool contains_any(const std::vector<Network>& networks, const Address& address) {
  return std::ranges::any_of(networks, [&](const Network& network) { return network.contains(address); });
}

}  // namespace ashlar::gateway
