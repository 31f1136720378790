#include "gateway/identity/jwk.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <iterator>

#include "base/json_full.h"
#include "gateway/identity/jws.h"

namespace ashlar::gateway {
namespace {

using Kind = Algorithm::Kind;

constexpr Algorithm kAlgorithms[] = {
    {"RS256", Kind::rsa, "SHA256", "", 0},      {"RS384", Kind::rsa, "SHA384", "", 0},
    {"RS512", Kind::rsa, "SHA512", "", 0},      {"PS256", Kind::rsa_pss, "SHA256", "", 0},
    {"PS384", Kind::rsa_pss, "SHA384", "", 0},  {"PS512", Kind::rsa_pss, "SHA512", "", 0},
    {"ES256", Kind::ec, "SHA256", "P-256", 32}, {"ES384", Kind::ec, "SHA384", "P-384", 48},
    {"ES512", Kind::ec, "SHA512", "P-521", 66}, {"EdDSA", Kind::ed25519, "", "Ed25519", 0},
    {"HS256", Kind::hmac, "SHA256", "", 0},     {"HS384", Kind::hmac, "SHA384", "", 0},
    {"HS512", Kind::hmac, "SHA512", "", 0},     {"Ed25519", Kind::ed25519, "", "Ed25519", 0},  // RFC 9864
};

constexpr std::size_t kMaxSet = 256 << 10, kMaxKeys = 100;
constexpr std::size_t kMinModulus = 2048 / 8, kMaxModulus = 8192 / 8, kMaxExponent = 4, kMinSecret = 32;

const unsigned char* bytes(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

template <auto kFree>
struct Free {
  template <class T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Number = std::unique_ptr<BIGNUM, Free<BN_free>>;
using Key = std::shared_ptr<EVP_PKEY>;

Key own(EVP_PKEY* key) { return key == nullptr ? nullptr : Key(key, EVP_PKEY_free); }

Key make_key(const char* type, OSSL_PARAM_BLD* build) {
  const std::unique_ptr<OSSL_PARAM, Free<OSSL_PARAM_free>> params(OSSL_PARAM_BLD_to_param(build));
  const std::unique_ptr<EVP_PKEY_CTX, Free<EVP_PKEY_CTX_free>> context(
      EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* key = nullptr;
  if (!params || !context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    ERR_clear_error();
    return nullptr;
  }
  return own(key);
}

using Build = std::unique_ptr<OSSL_PARAM_BLD, Free<OSSL_PARAM_BLD_free>>;

Key rsa_key(std::string_view modulus, std::string_view exponent) {
  while (modulus.starts_with('\0')) modulus.remove_prefix(1);  // some publishers write the sign's byte
  const bool odd = !exponent.empty() && (exponent.back() & 1) == 1 && exponent != std::string_view("\x01", 1);
  if (modulus.size() < kMinModulus || modulus.size() > kMaxModulus || exponent.size() > kMaxExponent || !odd)
    return nullptr;
  const Number n(BN_bin2bn(bytes(modulus), static_cast<int>(modulus.size()), nullptr));
  const Number e(BN_bin2bn(bytes(exponent), static_cast<int>(exponent.size()), nullptr));
  const Build build(OSSL_PARAM_BLD_new());
  OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_N, n.get());
  OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_E, e.get());
  return make_key("RSA", build.get());
}

// OpenSSL checks that the point is on the curve.
Key ec_key(const Algorithm& algorithm, std::string_view x, std::string_view y) {
  if (x.size() != algorithm.part || y.size() != algorithm.part) return nullptr;
  const std::string point = std::string("\x04").append(x).append(y);  // uncompressed (SEC 1, 2.3.3)
  const Build build(OSSL_PARAM_BLD_new());
  OSSL_PARAM_BLD_push_utf8_string(build.get(), OSSL_PKEY_PARAM_GROUP_NAME, algorithm.curve.data(), 0);
  OSSL_PARAM_BLD_push_octet_string(build.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size());
  return make_key("EC", build.get());
}

// r || s (RFC 7518, 3.4) as the DER that OpenSSL reads; empty: not of this length.
std::string ecdsa_der(std::string_view signature, std::size_t part) {
  if (signature.size() != 2 * part) return {};
  const std::unique_ptr<ECDSA_SIG, Free<ECDSA_SIG_free>> both(ECDSA_SIG_new());
  ECDSA_SIG_set0(both.get(), BN_bin2bn(bytes(signature), static_cast<int>(part), nullptr),
                 BN_bin2bn(bytes(signature) + part, static_cast<int>(part), nullptr));
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(both.get(), &der);
  std::string out(reinterpret_cast<const char*>(der), size > 0 ? static_cast<std::size_t>(size) : 0);
  OPENSSL_free(der);
  return out;
}

bool verify_public(const Algorithm& algorithm, EVP_PKEY* key, std::string_view text, std::string_view signature) {
  std::string der;
  if (algorithm.kind == Kind::ec) {
    der = ecdsa_der(signature, algorithm.part);
    if (der.empty()) return false;
    signature = der;
  }
  const std::unique_ptr<EVP_MD_CTX, Free<EVP_MD_CTX_free>> context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* rules = nullptr;
  const char* digest = algorithm.digest.empty() ? nullptr : algorithm.digest.data();
  bool ready = EVP_DigestVerifyInit_ex(context.get(), &rules, digest, nullptr, nullptr, key, nullptr) == 1;
  if (ready && algorithm.kind == Kind::rsa_pss)  // the salt is as long as the digest (RFC 7518, 3.5)
    ready = EVP_PKEY_CTX_set_rsa_padding(rules, RSA_PKCS1_PSS_PADDING) == 1 &&
            EVP_PKEY_CTX_set_rsa_pss_saltlen(rules, RSA_PSS_SALTLEN_DIGEST) == 1;
  const bool good =
      ready && EVP_DigestVerify(context.get(), bytes(signature), signature.size(), bytes(text), text.size()) == 1;
  ERR_clear_error();
  return good;
}

bool verify_secret(const Algorithm& algorithm, std::string_view secret, std::string_view text,
                   std::string_view signature) {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  const EVP_MD* digest = EVP_get_digestbyname(algorithm.digest.data());
  if (HMAC(digest, secret.data(), static_cast<int>(secret.size()), bytes(text), text.size(), mac, &size) == nullptr)
    return false;
  return signature.size() == size && CRYPTO_memcmp(signature.data(), mac, size) == 0;
}

std::string member(const Json& key, const char* name) {
  const auto found = key.find(name);
  return found != key.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string number(const Json& key, const char* name) { return decode_base64url(member(key, name)).value_or(""); }

// Whether the key says that it is for signatures, or says nothing.
bool for_signatures(const Json& key) {
  if (key.contains("use") && member(key, "use") != "sig") return false;
  const auto uses = key.find("key_ops");
  if (uses == key.end()) return true;
  return uses->is_array() && std::ranges::any_of(*uses, [](const Json& use) { return use == "verify"; });
}

}  // namespace

const Algorithm* find_algorithm(std::string_view name) {
  const auto found = std::ranges::find(kAlgorithms, name, &Algorithm::name);
  return found == std::end(kAlgorithms) ? nullptr : found;
}

std::vector<std::string> algorithm_names() {
  std::vector<std::string> out;
  for (const Algorithm& each : kAlgorithms) out.emplace_back(each.name);
  return out;
}

// One key of a set; nullopt: not one that we use.
struct JwkReader {
  static std::optional<Jwk> read(const Json& json) {
    if (!json.is_object() || !for_signatures(json)) return std::nullopt;
    Jwk out;
    out.id_ = member(json, "kid");
    out.algorithm_ = member(json, "alg");
    const std::string type = member(json, "kty"), curve = member(json, "crv");
    out.kind_ = type == "RSA" ? type : curve;
    if (type == "RSA") {
      out.key_ = rsa_key(number(json, "n"), number(json, "e"));
    } else if (type == "EC") {
      const auto algorithm = std::ranges::find_if(
          kAlgorithms, [&](const Algorithm& each) { return each.kind == Kind::ec && each.curve == curve; });
      if (algorithm != std::end(kAlgorithms)) out.key_ = ec_key(*algorithm, number(json, "x"), number(json, "y"));
    } else if (type == "OKP" && curve == "Ed25519") {
      const std::string point = number(json, "x");
      if (point.size() == 32)
        out.key_ = own(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes(point), point.size()));
    }
    if (out.key_ == nullptr) return std::nullopt;
    return out;
  }
};

Result<Jwk> Jwk::of_secret(std::string secret) {
  if (secret.size() < kMinSecret)
    return Error{Code::invalid, "a secret for HS256 is at least 32 random bytes long (RFC 7518, 3.2)"};
  Jwk out;
  out.kind_ = "oct";
  out.secret_ = std::move(secret);
  return out;
}

bool Jwk::fits(const Algorithm& algorithm) const {
  const bool both_names = algorithm.kind == Kind::ed25519 && (algorithm_ == "EdDSA" || algorithm_ == "Ed25519");
  if (!algorithm_.empty() && algorithm_ != algorithm.name && !both_names) return false;
  switch (algorithm.kind) {
    case Kind::rsa:
    case Kind::rsa_pss:
      return kind_ == "RSA";
    case Kind::ec:
    case Kind::ed25519:
      return kind_ == algorithm.curve;
    case Kind::hmac:
      return kind_ == "oct";
  }
  return false;
}

bool Jwk::verifies(const Algorithm& algorithm, std::string_view text, std::string_view signature) const {
  if (!fits(algorithm)) return false;
  if (algorithm.kind == Kind::hmac) return verify_secret(algorithm, secret_, text, signature);
  return verify_public(algorithm, key_.get(), text, signature);
}

Result<std::vector<Jwk>> parse_jwks(std::string_view text) {
  if (text.size() > kMaxSet) return Error{Code::too_large, "the key set is larger than 256 KiB"};
  const Json set = TRY(parse_json(text, {.depth = 16, .members = 64, .elements = kMaxKeys, .unique = true}));
  const auto keys = set.is_object() ? set.find("keys") : set.end();
  if (keys == set.end() || !keys->is_array()) return Error{Code::invalid, "the key set has no array 'keys'"};
  std::vector<Jwk> out;
  for (const Json& each : *keys)
    if (auto key = JwkReader::read(each)) out.push_back(std::move(*key));
  return out;
}

}  // namespace ashlar::gateway
