#include "api/keys.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <span>
#include <sstream>

#include "base/yaml.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMaxKeyBytes = 512;
constexpr Bytes kMaxFile = 4_MiB;

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::array<unsigned char, 32> sha256(std::string_view text) {
  std::array<unsigned char, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

Status check_key(std::string_view key, std::string_view where) {
  const bool printable = std::ranges::all_of(key, [](char c) { return c > ' ' && c < 0x7f; });
  if (key.empty() || key.size() > kMaxKeyBytes || !printable)
    return Error{Code::invalid,
                 fmt::format("{}: an API key is 1 to {} printable characters without blanks", where, kMaxKeyBytes)};
  return {};
}

bool is_bearer(std::string_view scheme) {
  constexpr std::string_view kBearer = "bearer";
  return std::ranges::equal(scheme, kBearer, [](char a, char b) { return (a | 0x20) == b; });
}

// "[::1]:8080" -> "::1", "localhost:80" -> "localhost"
std::string_view without_port(std::string_view authority) {
  if (authority.starts_with('[')) return authority.substr(1, authority.find(']') - 1);
  return authority.substr(0, authority.rfind(':'));
}

}  // namespace

Result<Keys> Keys::create(const std::vector<std::string>& keys, const std::string& file) {
  Keys out;
  std::string faults;
  const auto fault = [&](const Error& error) { faults += (faults.empty() ? "" : "\n") + error.message; };
  const auto take = [&](std::string_view key, const std::string& where) {
    if (const Status fine = check_key(key, where); !fine) return fault(fine.error());
    out.hashes_.push_back(sha256(key));
  };
  for (const std::string& key : keys) take(key, "--api-key");
  if (!file.empty()) {
    const auto text = read_text_file(file, "file of keys", kMaxFile);
    if (!text) fault({Code::not_found, "--api-key-file: " + text.error().message});
    std::istringstream lines(text.value_or(""));
    bool any = !text;
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number) {
      const auto key = trim(std::string_view(line).substr(0, line.find('#')));
      if (key.empty()) continue;
      any = true;
      take(key, fmt::format("{}:{}", file, number));
    }
    if (!any) fault({Code::invalid, fmt::format("--api-key-file: {}: it holds no key", file)});
  }
  if (!faults.empty()) return Error{Code::invalid, faults};
  return out;
}

std::string_view credential_of(const net::Headers& headers) {
  const auto authorization = net::find_header(headers, "authorization");
  if (const auto blank = authorization.find(' ');
      blank != authorization.npos && is_bearer(authorization.substr(0, blank)))
    return trim(authorization.substr(blank + 1));
  return net::find_header(headers, "x-api-key");
}

std::optional<std::string> Keys::find(std::string_view key) const {
  if (empty()) return std::nullopt;
  const Hash hash = sha256(key.substr(0, kMaxKeyBytes + 1));
  bool known = false;
  for (const Hash& one : hashes_) known |= CRYPTO_memcmp(one.data(), hash.data(), hash.size()) == 0;
  if (!known) return std::nullopt;
  return fmt::format("key-{:02x}", fmt::join(std::span(hash).first(8), ""));
}

Result<std::string> Keys::authenticate(const net::Headers& headers) const {
  if (empty()) return std::string();
  const auto shown = credential_of(headers);
  if (shown.empty())
    return Error{Code::unauthorized,
                 "this server needs an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"};
  if (auto tenant = find(shown)) return std::move(*tenant);
  return Error{Code::unauthorized, "the API key is not valid"};
}

bool is_loopback(std::string_view host) {
  if (host == "localhost" || host.ends_with(".localhost") || host == "::1") return true;
  if (!host.starts_with("127.")) return false;
  return std::ranges::all_of(host, [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}

Status check_exposure(std::string_view host, bool has_keys) {
  if (has_keys || is_loopback(host)) return {};
  return Error{Code::forbidden, fmt::format("without an API key the server listens on loopback only, not on '{}': add "
                                            "--api-key KEY or --api-key-file FILE, make one with `ashlar key create`, "
                                            "or listen on 127.0.0.1",
                                            host)};
}

Status check_browser(const net::HttpRequest& request, std::string_view cors_origin) {
  if (const auto host = net::find_header(request.headers, "host"); !host.empty() && !is_loopback(without_port(host)))
    return Error{
        Code::forbidden,
        fmt::format("this server has no API key and answers to localhost only, not to '{}': start it with --api-key",
                    host)};
  const auto origin = net::find_header(request.headers, "origin");
  if (origin.empty() || cors_origin == "*" || origin == cors_origin) return {};
  const auto scheme = origin.find("://");
  if (scheme != origin.npos && is_loopback(without_port(origin.substr(scheme + 3)))) return {};
  return Error{
      Code::forbidden,
      fmt::format("web pages of '{}' may not use this server: start it with --cors-origin or --api-key", origin)};
}

}  // namespace ashlar::api
