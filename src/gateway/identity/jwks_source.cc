#include "gateway/identity/jwks_source.h"

#include <fmt/format.h>

#include <utility>

#include "base/json_full.h"
#include "gateway/identity/issuer.h"
#include "gateway/identity/network.h"
#include "net/url.h"

namespace ashlar::gateway {
namespace {

constexpr int kMaxRedirects = 3;
constexpr Bytes kMaxDocument{256 << 10};

// Asked for each address that a name stands for, and for no other is a connection made.
Status admit_public(const std::string& text) {
  const auto address = parse_address(text.substr(0, text.find('%')));  // without an interface's name
  if (address && is_public(*address)) return {};
  return Error{Code::forbidden, fmt::format("it leads to {}, which is no public address", text)};
}

// `location` as seen from `base`.
std::string resolve(const net::Url& base, std::string_view location) {
  if (location.starts_with("//")) return (base.tls ? "https:" : "http:") + std::string(location);
  if (location.find("://") != location.npos) return std::string(location);
  return fmt::format("{}://{}{}{}", base.tls ? "https" : "http", base.authority(), location.starts_with('/') ? "" : "/",
                     location);
}

std::string discovery_of(std::string_view issuer) {
  while (issuer.ends_with('/')) issuer.remove_suffix(1);
  return std::string(issuer) + "/.well-known/openid-configuration";
}

const std::string& address_of(const IssuerOptions& options) {
  return options.jwks_url.empty() ? options.rules.issuer : options.jwks_url;
}

bool redirects(int status) { return status == 301 || status == 302 || status == 303 || status == 307 || status == 308; }

}  // namespace

JwksSource::JwksSource(const IssuerOptions& options, std::string home, std::unique_ptr<net::HttpClient> client)
    : issuer_(options.rules.issuer),
      jwks_url_(options.jwks_url),
      allow_private_(options.allow_private),
      timeout_(options.timeout),
      home_(std::move(home)),
      client_(std::move(client)) {}

Status check_jwks_address(const IssuerOptions& options) {
  const net::Url url = TRY(net::parse_url(address_of(options)));
  if (url.tls || options.allow_private) return {};
  return Error{Code::invalid,
               "its keys would be fetched without TLS, so that anyone on the way could put in their own: use https, or "
               "set 'allow_private'"};
}

Result<std::unique_ptr<JwksSource>> JwksSource::create(const IssuerOptions& options) {
  const net::Url url = TRY(net::parse_url(address_of(options)));
  auto client = net::HttpClient::create({.connect_timeout = options.timeout,
                                         .response_timeout = options.timeout,
                                         .max_body = kMaxDocument,
                                         .tls_ca = options.tls_ca,
                                         .proxies = options.proxies});
  if (!client)
    return Error{client.error().code, fmt::format("issuer '{}': {}", options.rules.issuer, client.error().message)};
  return std::unique_ptr<JwksSource>(new JwksSource(options, url.authority(), std::move(*client)));
}

Result<std::vector<Jwk>> JwksSource::fetch() {
  if (!jwks_url_.empty()) {
    const std::string text = TRY(get(jwks_url_, /*trusted=*/true));
    return parse_jwks(text);
  }
  if (discovered_.empty()) {
    const std::string text = TRY(get(discovery_of(issuer_), /*trusted=*/true));
    const auto found = parse_json(text, {.depth = 16, .members = 256, .elements = 1024, .unique = true});
    if (!found || !found->is_object()) return Error{Code::corrupt, "its discovery document is no JSON object"};
    // Else anyone who can publish such a document could speak for this issuer (OpenID Connect Discovery 1.0, 4.3).
    if (const auto issuer = found->find("issuer"); issuer == found->end() || *issuer != issuer_)
      return Error{Code::corrupt, "its discovery document is another issuer's"};
    const auto keys = found->find("jwks_uri");
    if (keys == found->end() || !keys->is_string())
      return Error{Code::corrupt, "its discovery document has no 'jwks_uri'"};
    discovered_ = keys->get<std::string>();
  }
  auto text = get(discovered_, /*trusted=*/false);
  auto keys = text ? parse_jwks(*text) : Result<std::vector<Jwk>>(std::unexpected(text.error()));
  if (!keys) discovered_.clear();  // it may have moved
  return keys;
}

// `trusted`: the administrator wrote this address. A proxy looks names up itself, and goes where it may.
Result<std::string> JwksSource::get(std::string url, bool trusted) {
  for (int hops = 0; hops <= kMaxRedirects; ++hops, trusted = false) {
    const net::Url parsed = TRY(net::parse_url(url));
    const bool free = trusted || allow_private_ || (parsed.tls && parsed.authority() == home_);
    if (!free && !parsed.tls)
      return Error{Code::forbidden, fmt::format("it leads to '{}', which is not https", parsed.authority())};
    if (!free && parse_address(parsed.host)) TRY(admit_public(parsed.host));
    net::ClientRequest request{.url = url, .headers = {{"accept", "application/json"}}, .timeout = timeout_};
    if (!free) request.admit = admit_public;
    auto answer = TRY(net::fetch(*client_, std::move(request)));
    if (answer.status == 200) return std::move(answer.body);
    if (!redirects(answer.status))
      return Error{Code::unavailable, fmt::format("it answered {} instead of a document", answer.status)};
    const auto to = net::find_header(answer.headers, "location");
    if (to.empty()) return Error{Code::corrupt, "it redirects to nowhere"};
    url = resolve(parsed, to);
  }
  return Error{Code::forbidden, fmt::format("it redirects more than {} times", kMaxRedirects)};
}

}  // namespace ashlar::gateway
