// Secrets that the configuration refers to: keys of upstreams and the like.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::gateway {

// A reference is "env:NAME", "file:PATH" (its text without white space at the ends; at most 64 KiB) or "sealed:...", as
// seal() makes them.

// Whether `reference` has one of these forms. invalid: not; the message never shows what may be a secret itself.
Status check_secret(std::string_view reference);
// The secret. not_found, forbidden (a file that others may read), corrupt (not sealed with our key), invalid.
Result<std::string> read_secret(std::string_view reference);

// A key of AES-256: 32 bytes.
class SealKey {
 public:
  // ASHLAR_SEAL_KEY (64 hexadecimal digits, or Base64 of 32 bytes), else the file that ASHLAR_SEAL_KEY_FILE names, else
  // ~/.config/ashlar/seal.key (under XDG_CONFIG_HOME where that is set). `make`: a file that is not there is made, with
  // a new key and mode 0600. not_found; forbidden: others may read the file; invalid: no such key.
  static Result<SealKey> find(bool make);
  explicit SealKey(std::string bytes);

  // "sealed:v1:" and the Base64 of nonce (12 bytes), ciphertext and tag (16 bytes), AES-256-GCM.
  std::string seal(std::string_view secret) const;
  // corrupt: another key's, or changed since.
  Result<std::string> open(std::string_view sealed) const;

 private:
  std::string bytes_;
};

}  // namespace ashlar::gateway
