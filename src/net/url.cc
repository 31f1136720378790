#include "net/url.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "net/http_text.h"

namespace ashlar::net {

std::string Url::authority() const {
  const std::string name = host.find(':') == host.npos ? host : "[" + host + "]";
  return port == (tls ? 443 : 80) ? name : fmt::format(FMT_COMPILE("{}:{}"), name, port);
}

bool Url::is_this_machine() const {
  boost::system::error_code is_a_name;
  const auto address = boost::asio::ip::make_address(host, is_a_name);
  if (!is_a_name) {
    const bool mapped = address.is_v6() && address.to_v6().is_v4_mapped();
    return mapped ? boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6()).is_loopback()
                  : address.is_loopback();
  }
  std::string name = lower(host);
  if (name.ends_with('.')) name.pop_back();
  return name == "localhost" || name.ends_with(".localhost");
}

Result<Url> parse_url(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return Error{Code::invalid, fmt::format("'{}' is not a usable URL: {}.", text, why)};
  };
  if (std::ranges::any_of(
          text, [](char c) { return static_cast<unsigned char>(c) <= 0x20 || static_cast<unsigned char>(c) >= 0x7f; }))
    return bad("it has a space, a control character or one that must be percent-encoded");
  const std::size_t scheme = text.find("://");
  if (scheme == text.npos) return bad("it must begin with http:// or https://");
  Url url;
  if (const std::string name = lower(text.substr(0, scheme)); name == "https")
    url.tls = true;
  else if (name != "http")
    return bad("only http and https are spoken");
  std::string_view rest = text.substr(scheme + 3);
  rest = rest.substr(0, rest.find('#'));

  const std::size_t end = rest.find_first_of("/?");
  std::string_view where = rest.substr(0, end);
  if (end != rest.npos) url.target = rest.substr(end);
  if (!url.target.starts_with('/')) url.target.insert(0, "/");
  if (where.find('@') != where.npos) return bad("a user name does not belong there");

  std::string_view port;
  bool has_port = false;
  if (where.starts_with('[')) {
    const std::size_t close = where.find(']');
    if (close == where.npos) return bad("the address has no closing bracket");
    url.host = where.substr(1, close - 1);
    boost::system::error_code no_address;
    boost::asio::ip::make_address_v6(url.host, no_address);
    if (no_address) return bad("between the brackets stands no IPv6 address");
    where.remove_prefix(close + 1);
    if (!where.empty() && where[0] != ':') return bad("after the address comes neither a port nor a path");
    has_port = !where.empty();
    if (has_port) port = where.substr(1);
  } else {
    const std::size_t colon = where.find(':');
    url.host = where.substr(0, colon);
    has_port = colon != where.npos;
    if (has_port) port = where.substr(colon + 1);
  }
  if (url.host.empty()) return bad("it names no host");
  if (url.host.find_first_of("[]") != url.host.npos) return bad("an address in brackets stands alone");
  url.port = url.tls ? 443 : 80;
  if (has_port) {
    const auto number = parse_decimal(port);
    if (!number || *number < 1 || *number > 65535) return bad("the port is not between 1 and 65535");
    url.port = static_cast<int>(*number);
  }
  return url;
}

}  // namespace ashlar::net
