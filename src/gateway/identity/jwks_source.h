// Where an issuer's keys come from: discovery and the key set, over HTTP. Blocking.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/identity/jwk.h"
#include "net/http_client.h"

namespace ashlar::gateway {

struct IssuerOptions;

// invalid: an address that is not https, unless private networks are allowed.
Status check_jwks_address(const IssuerOptions& options);

// One thread.
class JwksSource {
 public:
  // Of options that check_jwks_address() found fine. Else: a CA that cannot be read.
  static Result<std::unique_ptr<JwksSource>> create(const IssuerOptions& options);

  // The keys of this moment. Where the issuer's own document leads (jwks_uri,
  // redirects, three at most) must be https, and the same server or public, unless allowed: an issuer that is
  // taken over must not make this server knock at its neighbours.
  // unavailable: it cannot be reached; forbidden: it leads where we do not go;
  // corrupt: what it answers is no such document.
  Result<std::vector<Jwk>> fetch();

 private:
  JwksSource(const IssuerOptions& options, std::string home, std::unique_ptr<net::HttpClient> client);
  Result<std::string> get(std::string url, bool trusted);

  const std::string issuer_, jwks_url_;
  const bool allow_private_;
  const std::chrono::milliseconds timeout_;
  const std::string home_;  // the authority of the address that the administrator wrote
  const std::unique_ptr<net::HttpClient> client_;
  std::string discovered_;  // jwks_uri, found once and again whenever it fails
};

}  // namespace ashlar::gateway
