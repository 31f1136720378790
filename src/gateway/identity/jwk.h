// Keys that verify tokens: JSON Web Keys (RFC 7517, 7518, 8037), and the
// algorithms they are for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct evp_pkey_st;

namespace ashlar::gateway {

// One row of the table of algorithms; "none" is not in it.
struct Algorithm {
  enum class Kind { rsa, rsa_pss, ec, ed25519, hmac };
  std::string_view name;  // "RS256"
  Kind kind;
  std::string_view digest;  // "SHA256"; "" for Ed25519, which has its own
  std::string_view curve;   // "P-256", "Ed25519"; "" for others
  std::size_t part;         // bytes of each half of an ECDSA signature
};
// Null: no such algorithm. Exact: "rs256" and "None" are none.
const Algorithm* find_algorithm(std::string_view name);
std::vector<std::string> algorithm_names();

// A key that can verify. Immutable; any thread.
class Jwk {
 public:
  // invalid: a text shorter than RFC 7518 (3.2) asks for: 32 bytes.
  static Result<Jwk> of_secret(std::string secret);

  const std::string& id() const { return id_; }

  // Whether this key may be used with `algorithm`: the type, the curve and, where
  // the key names one, the algorithm must be the same.
  bool fits(const Algorithm& algorithm) const;
  // False: not signed by this key, or the key does not fit. HMACs are compared in constant time.
  bool verifies(const Algorithm& algorithm, std::string_view text, std::string_view signature) const;

 private:
  friend struct JwkReader;
  std::string id_, algorithm_;
  std::string kind_;    // "RSA", a curve, or "oct"
  std::string secret_;  // of "oct"
  std::shared_ptr<evp_pkey_st> key_;
};

// The public keys of a set that are for signatures (RFC 7517, 5): others, and such as
// are too weak or unknown, are left out as the RFC asks. Symmetric keys are left
// out always: what is published is no secret. invalid, too_large: no set, a set
// over 256 KiB or 100 keys, a member named twice.
Result<std::vector<Jwk>> parse_jwks(std::string_view text);

}  // namespace ashlar::gateway
