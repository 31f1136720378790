// Key sets that an issuer publishes: whatever is read verifies nothing it did not sign, and does not fall over.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "gateway/identity/jwk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ashlar::gateway;
  const auto keys = parse_jwks({reinterpret_cast<const char*>(data), size});
  if (!keys) {
    if (keys.error().message.empty()) std::abort();
    return 0;
  }
  for (const Jwk& key : *keys)
    for (const char* name : {"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA", "HS256"}) {
      const Algorithm* algorithm = find_algorithm(name);
      if (key.fits(*algorithm) && algorithm->kind == Algorithm::Kind::hmac) std::abort();
      if (key.verifies(*algorithm, "header.payload", std::string_view("not a signature of anything"))) std::abort();
    }
  return 0;
}
