#include "gateway/upstreams/secrets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/base64.h"
#include "base/descriptor.h"
#include "store/digest.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kEnv = "env:", kFile = "file:", kSealed = "sealed:", kVersion = "sealed:v1:";
constexpr std::string_view kAbout = "ashlar sealed secret v1";  // authenticated, not encrypted
constexpr std::size_t kNonce = 12, kTag = 16, kKey = 32, kMaxSecret = 64 << 10;

struct FreeCipher {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Cipher = std::unique_ptr<EVP_CIPHER_CTX, FreeCipher>;

const unsigned char* bytes(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }
unsigned char* bytes(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// `private_only`: a file that its group or others may read is refused.
Result<std::string> read_small_file(const std::string& path, bool private_only) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat about{};
  if (file.get() < 0 || ::fstat(file.get(), &about) != 0)
    return Error{Code::not_found, fmt::format("the file {} cannot be read", path)};
  if (private_only && (about.st_mode & 077) != 0)
    return Error{Code::forbidden, fmt::format("others may read {}: chmod 600 it", path)};
  std::string text(kMaxSecret + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0) return Error{Code::io, fmt::format("the file {} cannot be read", path)};
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > kMaxSecret) return Error{Code::too_large, fmt::format("{} is too large for a secret", path)};
  text.resize(size);
  return text;
}

std::optional<std::string> from_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<char>(high * 16 + low));
  }
  return out;
}

Result<SealKey> parse_key(std::string_view text, std::string_view from) {
  text = trim(text);
  auto key = text.size() == 2 * kKey ? from_hex(text) : store::base64_decode(text);
  if (!key || key->size() != kKey)
    return Error{Code::invalid, fmt::format("{} should be 64 hexadecimal digits, or Base64 of 32 bytes", from)};
  return SealKey(std::move(*key));
}

std::string key_path() {
  if (const char* named = std::getenv("ASHLAR_SEAL_KEY_FILE"); named != nullptr && *named != '\0') return named;
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config != nullptr && *config == '/')
    return std::string(config) + "/ashlar/seal.key";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : ".") + "/.config/ashlar/seal.key";
}

Result<SealKey> make_key(const std::string& path) {
  std::string key(kKey, '\0');
  CHECK(RAND_bytes(bytes(key), kKey) == 1, "OpenSSL has random numbers");
  std::error_code failed;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), failed);
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  const std::string text = store::to_hex(key) + "\n";
  if (file.get() < 0 || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::fsync(file.get()) != 0)
    return Error{Code::io, fmt::format("the key file {} cannot be written", path)};
  return SealKey(std::move(key));
}

}  // namespace

Status check_secret(std::string_view reference) {
  for (const std::string_view form : {kEnv, kFile, kVersion})
    if (reference.starts_with(form) && reference.size() > form.size()) return {};
  return Error{Code::invalid,
               "a secret does not stand here itself: write env:NAME, file:PATH or what `ashlar upstream seal` prints"};
}

Result<std::string> read_secret(std::string_view reference) {
  TRY(check_secret(reference));
  std::string secret;
  if (reference.starts_with(kEnv)) {
    const std::string name(reference.substr(kEnv.size()));
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) return Error{Code::not_found, fmt::format("the variable {} is not set", name)};
    secret = value;
  } else if (reference.starts_with(kFile)) {
    secret = trim(TRY(read_small_file(std::string(reference.substr(kFile.size())), false)));
  } else {
    const auto key = TRY(SealKey::find(false));
    secret = TRY(key.open(reference));
  }
  const bool plain = std::ranges::all_of(secret, [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  if (secret.empty() || !plain)
    return Error{Code::invalid, reference.starts_with(kSealed)
                                    ? std::string("a sealed secret is empty or has control characters")
                                    : fmt::format("the secret of {} is empty or has control characters", reference)};
  return secret;
}

SealKey::SealKey(std::string key) : bytes_(std::move(key)) { CHECK(bytes_.size() == kKey, "a key of AES-256"); }

Result<SealKey> SealKey::find(bool make) {
  if (const char* key = std::getenv("ASHLAR_SEAL_KEY"); key != nullptr && *key != '\0')
    return parse_key(key, "ASHLAR_SEAL_KEY");
  const std::string path = key_path();
  auto text = read_small_file(path, true);
  if (text) return parse_key(*text, path);
  if (text.error().code != Code::not_found || !make || std::filesystem::exists(path))
    return Error{text.error().code, "the key that seals secrets: " + text.error().message};
  return make_key(path);
}

std::string SealKey::seal(std::string_view secret) const {
  std::string out(kNonce + secret.size() + kTag, '\0');
  CHECK(RAND_bytes(bytes(out), kNonce) == 1, "OpenSSL has random numbers");
  const Cipher cipher(EVP_CIPHER_CTX_new());
  unsigned char* to = bytes(out) + kNonce;
  int size = 0, last = 0;
  const bool done =
      EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, bytes(std::string_view(bytes_)), bytes(out)) == 1 &&
      EVP_EncryptUpdate(cipher.get(), nullptr, &size, bytes(kAbout), static_cast<int>(kAbout.size())) == 1 &&
      EVP_EncryptUpdate(cipher.get(), to, &size, bytes(secret), static_cast<int>(secret.size())) == 1 &&
      EVP_EncryptFinal_ex(cipher.get(), to + size, &last) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTag, to + secret.size()) == 1;
  CHECK(done, "OpenSSL has AES-256-GCM");
  std::string text(kVersion);
  append_base64(text, {bytes(out), out.size()});
  return text;
}

Result<std::string> SealKey::open(std::string_view sealed) const {
  const Error wrong{Code::corrupt,
                    "a sealed secret cannot be opened: it was sealed with another key, or changed since"};
  if (!sealed.starts_with(kVersion)) return wrong;
  auto raw = store::base64_decode(sealed.substr(kVersion.size()));
  if (!raw || raw->size() < kNonce + kTag) return wrong;
  const std::size_t length = raw->size() - kNonce - kTag;
  std::string out(length, '\0');
  const Cipher cipher(EVP_CIPHER_CTX_new());
  int size = 0, last = 0;
  const bool done =
      EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, bytes(std::string_view(bytes_)), bytes(*raw)) == 1 &&
      EVP_DecryptUpdate(cipher.get(), nullptr, &size, bytes(kAbout), static_cast<int>(kAbout.size())) == 1 &&
      EVP_DecryptUpdate(cipher.get(), bytes(out), &size, bytes(*raw) + kNonce, static_cast<int>(length)) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTag, bytes(*raw) + kNonce + length) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), bytes(out) + size, &last) == 1;
  if (!done) return wrong;
  return out;
}

}  // namespace ashlar::gateway
