// Which addresses an upstream's name may lead to.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::gateway {

// Public addresses are fine. This machine's are where the URL itself names it (`url_is_local`) or private ones are
// allowed; private ones (RFC 1918, 6598, 4193) where they are allowed. Link-local ones, among them the clouds'
// metadata, unspecified, multicast and reserved ones never are. An IPv4 address within an IPv6 one is judged as itself.
// forbidden; invalid: no address.
Status check_address(std::string_view address, bool url_is_local, bool allow_private);

}  // namespace ashlar::gateway
