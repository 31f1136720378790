// Issuers whose tokens are taken: their keys, fetched over HTTP and kept fresh
// (OpenID Connect Discovery 1.0, RFC 7517), or given by file.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/identity/jwt.h"
#include "gateway/identity/principal.h"
#include "net/proxy.h"

namespace ashlar::gateway {

struct IssuerOptions {
  IssuerRules rules;
  // Where its keys are: exactly one of these, or none for what discovery at the issuer's own address says.
  std::string jwks_url;
  std::vector<Jwk> keys;
  bool allow_private = false;  // redirects and what discovery names may lie in private networks, and be plain HTTP
  std::string tls_ca;          // PEM; "": the system's authorities
  std::chrono::seconds refresh{300};          // keys are fetched so often
  std::chrono::seconds min_interval{10};      // and for an unknown key at most so often
  std::chrono::seconds stale_for{24 * 3600};  // how long they are used while the issuer cannot be reached
  std::chrono::seconds timeout{5};            // of one fetch
  net::ProxyRules proxies;
};

// What of an issuer's options cannot hold: the member of the configuration, and a sentence. `absent`: nothing is there.
struct IssuerFault {
  std::string member;
  std::string why;
  bool absent = false;
};
std::vector<IssuerFault> check_issuer(const IssuerOptions& options);

// Tests turn these.
struct IssuerClocks {
  std::function<std::int64_t()> unix_seconds;                     // for what tokens say
  std::function<std::chrono::steady_clock::time_point()> steady;  // for how often we ask
};
IssuerClocks system_clocks();

using Identified = std::function<void(Result<Principal>)>;

// Any thread may verify. Each issuer's own thread fetches its keys, so that no caller ever waits.
class Issuers {
 public:
  // invalid: what check_issuer() finds, or two of one name.
  // Nothing is fetched before it is needed; start_fetching() does it ahead.
  static Result<std::unique_ptr<Issuers>> create(std::vector<IssuerOptions> options,
                                                 IssuerClocks clocks = system_clocks());
  virtual ~Issuers() = default;  // whoever still waits is told `unavailable`

  virtual void start_fetching() = 0;

  // Calls `done` once: at once where the keys are known, else on the fetching
  // thread when they have come or failed to. unauthorized: the token is not
  // valid, uniformly until its signature is proved, and why from then on;
  // unavailable: its issuer's keys cannot be had.
  virtual void verify(std::string token, Identified done) = 0;

  // Sentences about issuers whose keys could not be fetched lately; for health.
  virtual std::vector<std::string> troubles() const = 0;
};

// Whether it has the shape of a token rather than of a key: two dots and a header that begins as JSON does.
bool looks_like_token(std::string_view text);

}  // namespace ashlar::gateway
