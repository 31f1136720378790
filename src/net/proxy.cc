#include "net/proxy.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <initializer_list>
#include <span>

#include "base/base64.h"
#include "net/http_text.h"

namespace ashlar::net {
namespace {

std::string first_of(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return value;
  return "";
}

struct Address {
  std::array<unsigned char, 16> bytes{};
  unsigned bits = 0;  // 32 or 128; 0: a name
};

Address address_of(std::string_view host) {
  Address address;
  const std::string text(host);
  if (::inet_pton(AF_INET, text.c_str(), address.bytes.data()) == 1)
    address.bits = 32;
  else if (::inet_pton(AF_INET6, text.c_str(), address.bytes.data()) == 1)
    address.bits = 128;
  return address;
}

bool begin_alike(const Address& a, const Address& b, unsigned bits) {
  for (unsigned bit = 0; bit < bits; ++bit)
    if (((a.bytes[bit / 8] ^ b.bytes[bit / 8]) >> (7 - bit % 8) & 1) != 0) return false;
  return true;
}

// One entry of no_proxy, in small letters.
bool lists(std::string_view entry, const std::string& host, int port) {
  if (entry == "*") return true;
  const std::size_t bracket = entry.starts_with('[') ? entry.find(']') : 0;
  if (bracket == entry.npos) return false;
  const std::size_t colon = entry.find(':', bracket);
  if (colon != entry.npos && entry.find(':', colon + 1) == entry.npos) {  // else an address of IPv6
    if (parse_decimal(entry.substr(colon + 1)) != static_cast<std::uint64_t>(port)) return false;
    entry = entry.substr(0, colon);
  }
  if (entry.starts_with('[')) entry = entry.substr(1, bracket - 1);
  const std::size_t slash = entry.find('/');
  const Address network = address_of(entry.substr(0, slash)), address = address_of(host);
  if (network.bits != 0 || address.bits != 0) {
    const auto bits = slash == entry.npos ? network.bits : parse_decimal(entry.substr(slash + 1));
    return network.bits == address.bits && bits && *bits <= network.bits &&
           begin_alike(network, address, static_cast<unsigned>(*bits));
  }
  if (entry.starts_with("*.")) entry.remove_prefix(1);
  if (entry.starts_with('.')) entry.remove_prefix(1);
  if (entry.ends_with('.')) entry.remove_suffix(1);
  return !entry.empty() && (host == entry || host.ends_with(fmt::format(".{}", entry)));
}

std::string name_of(const Url& url) {
  std::string host = lower(url.host);
  if (host.ends_with('.')) host.pop_back();
  return host;
}

// "user:password" as in a URL. nullopt: not so.
std::optional<std::string> basic(std::string_view text) {
  const std::size_t colon = text.find(':');
  const auto user = percent_decode(text.substr(0, colon));
  const auto password = percent_decode(colon == text.npos ? std::string_view() : text.substr(colon + 1));
  if (!user || !password || user->find(':') != user->npos) return std::nullopt;
  const std::string both = fmt::format("{}:{}", *user, *password);
  std::string out = "Basic ";
  append_base64(out, {reinterpret_cast<const unsigned char*>(both.data()), both.size()});
  return out;
}

}  // namespace

ProxySettings proxy_settings_from_environment() {
  return {.http = first_of({"http_proxy", "all_proxy", "ALL_PROXY"}),
          .https = first_of({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}),
          .none = first_of({"no_proxy", "NO_PROXY"})};
}

std::string Proxy::shown() const {
  return fmt::format("http://{}:{}", host.find(':') == host.npos ? host : "[" + host + "]", port);
}

Result<std::optional<Proxy>> ProxyRules::find(const Url& url) const {
  const std::string& proxy = url.tls ? settings_.https : settings_.http;
  if (proxy.empty() || url.is_this_machine() || is_listed(settings_.none, url)) return std::nullopt;
  return TRY(parse_proxy(proxy, url.tls ? "https_proxy" : "http_proxy"));
}

Result<Proxy> parse_proxy(std::string_view text, std::string_view what) {
  const auto wrong = [&](std::string_view why) {
    return Error{Code::invalid, fmt::format("{}: {}; http://[USER:PASSWORD@]HOST[:PORT] is expected.", what, why)};
  };
  if (const std::size_t scheme = text.find("://"); scheme != text.npos) {
    if (lower(text.substr(0, scheme)) != "http") return wrong("that kind of proxy is not spoken to");
    text.remove_prefix(scheme + 3);
  }
  text = text.substr(0, text.find('/'));
  Proxy proxy;
  if (const std::size_t at = text.rfind('@'); at != text.npos) {
    const auto field = at == 0 ? std::nullopt : basic(text.substr(0, at));
    if (!field) return wrong("its user name or password is not percent-encoded as in a URL");
    proxy.authorization = *field;
    text.remove_prefix(at + 1);
  }
  const auto url = parse_url(fmt::format("http://{}/", text));
  if (!url) return wrong("its value is no address");
  proxy.host = url->host;
  const std::size_t colon = text.rfind(':');
  if (colon != text.npos && text.find(']', colon) == text.npos) proxy.port = url->port;
  return proxy;
}

Error refused_by(const Proxy& proxy, const Url& to, int status) {
  if (status == 407)
    return {
        Code::unauthorized,
        fmt::format("The proxy {} wants a user name and a password{}: {}_proxy=http://USER:PASSWORD@HOST:PORT "
                    "gives them.",
                    proxy.shown(), proxy.authorization.empty() ? "" : ", and not these", to.tls ? "https" : "http")};
  return {status == 403 ? Code::forbidden : Code::unavailable,
          fmt::format("The proxy {} does not connect to {}: {} {}.", proxy.shown(), to.authority(), status,
                      reason(status))};
}

bool is_listed(std::string_view none, const Url& url) {
  const std::string all = lower(none), host = name_of(url);
  constexpr std::string_view kBetween = ", \t";
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find_first_of(kBetween, begin), all.size());
    if (lists(std::string_view(all).substr(begin, end - begin), host, url.port)) return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace ashlar::net
