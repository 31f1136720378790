// Tokens: whatever is read as one keeps its parts, and nobody but the owner of a key signs one.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "gateway/identity/jwk.h"
#include "gateway/identity/jwt.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ashlar::gateway;
  static const auto keys = *parse_jwks(
      R"({"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]})");
  static const IssuerRules rules = [] {
    IssuerRules out;
    out.issuer = "joe";
    out.audiences = {"ashlar"};
    out.algorithms = {"ES256"};
    out.claims = {.user = "sub", .team = "a.b", .tenant = "tenant", .roles = "roles"};
    out.role_names = {{"admin", Role::admin}};
    return out;
  }();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto jws = parse_jws(text);
  if (!jws) {
    if (jws.error().message.empty()) std::abort();
    return 0;
  }
  if (encode_base64url(jws->signature) != text.substr(text.rfind('.') + 1)) std::abort();
  unproven_issuer(*jws);
  const bool known = text.starts_with("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQog");
  if (check_signature(*jws, keys, rules) && !known) std::abort();
  // As if the signature held.
  if (const auto who = check_claims(*jws, rules, 1'300'819'000); who)
    if (!check_name(who->user, "user") || who->tenant.empty()) std::abort();
  return 0;
}
