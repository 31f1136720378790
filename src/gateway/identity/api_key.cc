#include "gateway/identity/api_key.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>

#include "base/crc32.h"
#include "base/result.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kStart = "ak-";
constexpr std::size_t kRandom = 40, kChecksum = 6, kShown = 8;

std::string checksum(std::string_view text) {
  std::uint32_t left = crc32(text);
  std::string out(kChecksum, '0');
  for (auto at = out.rbegin(); at != out.rend(); ++at, left /= kAlphabet.size())
    *at = kAlphabet[left % kAlphabet.size()];
  return out;
}

}  // namespace

std::string random_base62(std::size_t count) {
  std::string out;
  while (out.size() < count) {
    unsigned char bytes[64];
    CHECK(RAND_bytes(bytes, sizeof bytes) == 1, "the system gives random bytes");
    for (const unsigned char byte : bytes)  // 248 = 4 * 62: what is above would make some characters likelier
      if (byte < 248 && out.size() < count) out.push_back(kAlphabet[byte % 62]);
  }
  return out;
}

NewApiKey make_api_key() {
  NewApiKey out;
  out.text = std::string(kStart) + random_base62(kRandom);
  out.text += checksum(out.text);
  out.prefix = out.text.substr(0, kStart.size() + kShown);
  out.hash = hash_key(out.text);
  return out;
}

KeyText judge_key_text(std::string_view text) {
  if (!text.starts_with(kStart)) return KeyText::foreign;
  if (text.size() != kStart.size() + kRandom + kChecksum) return KeyText::mistyped;
  const auto body = text.substr(0, text.size() - kChecksum);
  return checksum(body) == text.substr(body.size()) ? KeyText::whole : KeyText::mistyped;
}

KeyHash hash_key(std::string_view text) {
  KeyHash out;
  // Looked up once: each SHA256() looks for who implements it.
  static EVP_MD* const kSha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  CHECK(EVP_Digest(text.data(), text.size(), out.data(), nullptr, kSha256, nullptr) == 1, "OpenSSL has SHA-256");
  return out;
}

}  // namespace ashlar::gateway
