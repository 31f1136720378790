// For the tests of this folder: an issuer's private key that signs tokens, and clocks that tests turn.
#pragma once

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "base/json_full.h"
#include "gateway/identity/issuer.h"
#include "gateway/identity/jws.h"

namespace ashlar::gateway {

// A key pair of RS256, PS256, ES256, EdDSA or Ed25519.
class Signer {
 public:
  explicit Signer(std::string algorithm, std::string id = "one")
      : algorithm_(std::move(algorithm)), id_(std::move(id)), key_(make(algorithm_), EVP_PKEY_free) {}

  const std::string& id() const { return id_; }

  std::string jwk() const {
    Json out = {{"kid", id_}, {"use", "sig"}, {"alg", algorithm_}};
    if (algorithm_ == "ES256") {
      out.update({{"kty", "EC"},
                  {"crv", "P-256"},
                  {"x", number(OSSL_PKEY_PARAM_EC_PUB_X, 32)},
                  {"y", number(OSSL_PKEY_PARAM_EC_PUB_Y, 32)}});
    } else if (algorithm_ == "EdDSA" || algorithm_ == "Ed25519") {
      std::string raw(32, '\0');
      std::size_t size = raw.size();
      EVP_PKEY_get_raw_public_key(key_.get(), reinterpret_cast<unsigned char*>(raw.data()), &size);
      out.update({{"kty", "OKP"}, {"crv", "Ed25519"}, {"x", encode_base64url(raw)}});
    } else {
      out.update({{"kty", "RSA"}, {"n", number(OSSL_PKEY_PARAM_RSA_N, 256)}, {"e", "AQAB"}});
    }
    return dump_json(out);
  }
  std::string jwks() const { return R"({"keys":[)" + jwk() + "]}"; }

  std::string token(const Json& claims) const {
    return token({{"alg", algorithm_}, {"kid", id_}, {"typ", "JWT"}}, claims);
  }
  std::string token(const Json& header, const Json& claims) const {
    return of_texts(dump_json(header), dump_json(claims));
  }
  std::string of_texts(const std::string& header, const std::string& claims) const {
    const std::string part = encode_base64url(header) + "." + encode_base64url(claims);
    return part + "." + encode_base64url(sign(part));
  }

 private:
  static EVP_PKEY* make(std::string_view algorithm) {
    if (algorithm == "ES256") return EVP_EC_gen("P-256");
    if (algorithm == "EdDSA" || algorithm == "Ed25519") return EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
    // Making one takes a second on a busy machine: two are enough to tell apart.
    static EVP_PKEY* const kTwo[] = {EVP_RSA_gen(2048), EVP_RSA_gen(2048)};
    static std::atomic<unsigned> next = 0;
    EVP_PKEY* one = kTwo[next++ % 2];
    EVP_PKEY_up_ref(one);
    return one;
  }
  std::string number(const char* name, std::size_t size) const {
    BIGNUM* value = nullptr;
    EVP_PKEY_get_bn_param(key_.get(), name, &value);
    std::string out(size, '\0');
    BN_bn2binpad(value, reinterpret_cast<unsigned char*>(out.data()), static_cast<int>(size));
    BN_free(value);
    return encode_base64url(out);
  }
  std::string sign(std::string_view text) const {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    EVP_PKEY_CTX* rules = nullptr;
    EVP_DigestSignInit_ex(context, &rules, (algorithm_ == "EdDSA" || algorithm_ == "Ed25519") ? nullptr : "SHA256",
                          nullptr, nullptr, key_.get(), nullptr);
    if (algorithm_ == "PS256") {
      EVP_PKEY_CTX_set_rsa_padding(rules, RSA_PKCS1_PSS_PADDING);
      EVP_PKEY_CTX_set_rsa_pss_saltlen(rules, RSA_PSS_SALTLEN_DIGEST);
    }
    unsigned char out[1024];
    std::size_t size = sizeof out;
    EVP_DigestSign(context, out, &size, reinterpret_cast<const unsigned char*>(text.data()), text.size());
    EVP_MD_CTX_free(context);
    if (algorithm_ != "ES256") return {reinterpret_cast<char*>(out), size};
    const unsigned char* at = out;
    ECDSA_SIG* both = d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(size));
    std::string joined(64, '\0');
    BN_bn2binpad(ECDSA_SIG_get0_r(both), reinterpret_cast<unsigned char*>(joined.data()), 32);
    BN_bn2binpad(ECDSA_SIG_get0_s(both), reinterpret_cast<unsigned char*>(joined.data()) + 32, 32);
    ECDSA_SIG_free(both);
    return joined;
  }

  const std::string algorithm_, id_;
  const std::shared_ptr<EVP_PKEY> key_;
};

// An HS256 token, by hand.
inline std::string hmac_token(std::string_view secret, const std::string& header, const std::string& claims) {
  const std::string part = encode_base64url(header) + "." + encode_base64url(claims);
  unsigned char mac[32];
  unsigned size = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(part.data()), part.size(), mac, &size);
  return part + "." + encode_base64url({reinterpret_cast<char*>(mac), size});
}

// Clocks that stand still until they are told otherwise. Any thread.
struct TurnedClocks {
  std::atomic<std::int64_t> unix_seconds = 1'700'000'000;
  std::atomic<std::int64_t> steady_seconds = 1000;

  IssuerClocks clocks() {
    return {.unix_seconds = [this] { return unix_seconds.load(); },
            .steady =
                [this] { return std::chrono::steady_clock::time_point(std::chrono::seconds(steady_seconds.load())); }};
  }
};

}  // namespace ashlar::gateway
