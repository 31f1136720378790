// Addresses of HTTP servers.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::net {

struct Url {
  bool tls = false;  // https
  std::string host;  // without the brackets of an IPv6 address
  int port = 80;
  std::string target;  // "/v1/models?x=y", never empty, as it goes on the wire

  // For the host field: "example.org", "[::1]:8080".
  std::string authority() const;
  // "localhost" or an address that never leaves it: 127.0.0.0/8, ::1.
  bool is_this_machine() const;
};

// "http://host[:port][/path][?query]"; a fragment is dropped. invalid: another
// scheme, user names, spaces, a port out of range.
Result<Url> parse_url(std::string_view text);

}  // namespace ashlar::net
