// By which proxy an upstream is reached.
#pragma once

#include <string_view>

#include "base/result.h"
#include "gateway/upstreams/options.h"
#include "net/proxy.h"

namespace ashlar::gateway {

// "none" or "": by none; "env": as the variables http_proxy, https_proxy, all_proxy and no_proxy say; else
// "[http://]HOST[:PORT]", or a reference to a secret that holds such an address, perhaps with USER:PASSWORD@.
// invalid: it is none of these; the message shows no password.
Status check_proxy(std::string_view text);

// The rules that the options ask for. forbidden: the URL names an address, to which a proxy would connect, that the
// upstream may not have. Where a name leads is then the proxy's to judge: it is looked up there.
Result<net::ProxyRules> read_proxy(const UpstreamOptions& options);

}  // namespace ashlar::gateway
