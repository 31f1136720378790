// Signed tokens as they travel: JSON Web Signature, compact form (RFC 7515),
// read strictly and within bounds.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::gateway {

constexpr std::size_t kMaxToken = 16 << 10;

struct Jws {
  std::string algorithm;         // `alg`, as it was written
  std::string key_id;            // `kid`; "": none
  std::string type;              // `typ`, in lower case and without "application/"; "": none
  std::string_view signed_part;  // header.payload, within the token
  std::string payload;           // decoded, any bytes
  std::string signature;         // decoded; never empty
};

// invalid: not three parts of base64url (without padding, without spare bits), a
// header that is no JSON object or has a member twice, a member of a wrong type,
// `crit`, `b64` or `zip` (extensions that must be understood, and none is), a
// `cty` of JWT (a token in a token); too_large: over kMaxToken. Header members
// that name keys (jku, jwk, x5u, x5c) are never followed: see jwk.h for the keys.
// `token` must outlive the result.
Result<Jws> parse_jws(std::string_view token);

// Base64url without padding (RFC 4648, 5). invalid: another character, a length
// that cannot be, or bits left over.
Result<std::string> decode_base64url(std::string_view text);
std::string encode_base64url(std::string_view bytes);

}  // namespace ashlar::gateway
