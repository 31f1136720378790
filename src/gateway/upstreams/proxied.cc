#include "gateway/upstreams/proxied.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "gateway/upstreams/addresses.h"
#include "gateway/upstreams/secrets.h"
#include "gateway/upstreams/wire.h"
#include "net/url.h"

namespace ashlar::gateway {
namespace {

bool is_none(std::string_view text) { return text.empty() || text == "none"; }

Result<net::ProxySettings> settings_of(const UpstreamOptions& options) {
  if (is_none(options.proxy)) return net::ProxySettings{};
  if (options.proxy == "env") return net::proxy_settings_from_environment();
  std::string url = check_secret(options.proxy) ? TRY(read_secret(options.proxy)) : options.proxy;
  TRY(net::parse_proxy(url, "proxy"));
  return net::ProxySettings{.http = url, .https = std::move(url)};
}

}  // namespace

Status check_proxy(std::string_view text) {
  if (is_none(text) || text == "env" || check_secret(text)) return {};
  if (text.find('@') != text.npos)
    return Error{Code::invalid,
                 "'proxy': a password does not stand in this file: env:NAME or file:PATH may hold "
                 "http://USER:PASSWORD@HOST:PORT"};
  TRY(net::parse_proxy(text, "'proxy'"));
  return {};
}

Result<net::ProxyRules> read_proxy(const UpstreamOptions& options) {
  auto settings = settings_of(options);
  if (!settings)
    return Error{settings.error().code, fmt::format("upstream '{}': {}", options.name, settings.error().message)};
  net::ProxyRules rules(std::move(*settings));
  const net::Url url = TRY(net::parse_url(base_url(options)));
  if (TRY(rules.find(url)).has_value())
    if (auto fine = check_address(url.host, false, options.allow_private);
        !fine && fine.error().code == Code::forbidden)
      return Error{Code::forbidden, fmt::format("upstream '{}': {}", options.name, fine.error().message)};
  return rules;
}

}  // namespace ashlar::gateway
