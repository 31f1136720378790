// Fingerprints of bytes, and how they are written down.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace ashlar::store {

// Bytes in, fingerprint out. Move-only; one thread.
class Hasher {
 public:
  enum class Kind { sha1, sha256 };
  explicit Hasher(Kind kind);
  void add(std::string_view bytes);
  std::string finish();  // raw bytes; once

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256(std::string_view bytes);                               // raw
std::string hmac_sha256(std::string_view key, std::string_view message);  // raw

std::string to_hex(std::string_view raw);
// "sha256:AB12..." or "ab12...": 64 hex digits as the store writes them, in lower
// case. nullopt: anything else.
std::optional<std::string> parse_sha256(std::string_view text);
// 40 hex digits, as git names what it keeps.
std::optional<std::string> parse_git_sha1(std::string_view text);

// Of RFC 4648, 4, with padding. nullopt: not that.
std::optional<std::string> base64_decode(std::string_view text);

}  // namespace ashlar::store
