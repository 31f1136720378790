// Proxies on the way to other servers, by the variables and rules that curl has.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/url.h"

namespace ashlar::net {

// What the variables say; empty: nothing.
struct ProxySettings {
  std::string http, https;  // the proxy for http:// and https:// addresses: [http://][USER:PASSWORD@]HOST[:PORT]
  std::string none;         // for whom there is none: see ProxyRules
  bool operator==(const ProxySettings&) const = default;
};
// https_proxy or HTTPS_PROXY; http_proxy, in small letters only, for a web server hands a stranger's field "Proxy"
// to its scripts as HTTP_PROXY; all_proxy or ALL_PROXY for what these leave out; no_proxy or NO_PROXY.
ProxySettings proxy_settings_from_environment();

struct Proxy {
  std::string host;
  int port = 1080;
  std::string authorization;  // the field's value: "Basic ..."; "": none

  std::string shown() const;  // "http://host:port", never a password
};

// Requests to http:// addresses are handed to a proxy whole, for https:// it is asked for a tunnel. It is spoken to
// in plain HTTP: TLS to the proxy itself and SOCKS are not spoken. Immutable; any thread.
class ProxyRules {
 public:
  ProxyRules() = default;
  explicit ProxyRules(ProxySettings settings) : settings_(std::move(settings)) {}

  // Who is to be asked for `url`; nullopt: its own server. That is so for this machine ("localhost", 127.0.0.0/8,
  // ::1), for a proxy would take it for itself, and for what `none` lists, by comma or space: "*", a host and all
  // below it ("example.org" or ".example.org"), an address, a range of them ("10.0.0.0/8"), each perhaps with ":PORT".
  // invalid: the proxy's address cannot be used; the message does not show its password.
  Result<std::optional<Proxy>> find(const Url& url) const;

 private:
  ProxySettings settings_;
};

// "[http://][USER:PASSWORD@]HOST[:PORT]", user and password percent-encoded. invalid, in a sentence that begins with
// `what` and does not show the password.
Result<Proxy> parse_proxy(std::string_view text, std::string_view what);

// What a call ends with when the proxy answers `status` instead of passing on what goes to `to`.
Error refused_by(const Proxy& proxy, const Url& to, int status);

// Whether `none`, as described above, lists the server of `url`.
bool is_listed(std::string_view none, const Url& url);

}  // namespace ashlar::net
