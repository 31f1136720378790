// GET /: a page that chats with the model. One file, nothing from elsewhere.
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <string>
#include <string_view>

#include "api/routes.h"

extern "C" const char ashlar_page_begin[];
extern "C" const char ashlar_page_end[];

namespace ashlar::api {
namespace {

std::string_view page_text() {
  return {ashlar_page_begin, static_cast<std::size_t>(ashlar_page_end - ashlar_page_begin)};
}

// 'sha256-...' of what stands between <tag> and </tag>, for the policy.
std::string hash_of(std::string_view tag) {
  const std::string open = fmt::format("<{}>", tag), close = fmt::format("</{}>", tag);
  const auto begin = page_text().find(open) + open.size();
  const auto inner = page_text().substr(begin, page_text().find(close, begin) - begin);
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(inner.data()), inner.size(), hash);
  unsigned char text[4 * ((sizeof hash + 2) / 3) + 1];
  const int size = EVP_EncodeBlock(text, hash, sizeof hash);
  return fmt::format("'sha256-{}'",
                     std::string_view(reinterpret_cast<const char*>(text), static_cast<std::size_t>(size)));
}

// The page runs its own script and style and talks to its own server: no more.
const std::string& policy() {
  static const std::string text = fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; "
      "form-action 'none'; "
      "frame-ancestors 'none'",
      hash_of("script"), hash_of("style"));
  return text;
}

}  // namespace

Outcome<void> page(Call& call) {
  call.exchange->respond(200,
                         {{"content-type", "text/html; charset=utf-8"},
                          {"content-security-policy", policy()},
                          {"referrer-policy", "no-referrer"},
                          {"cache-control", "no-cache"}},
                         std::string(page_text()));
  return {};
}

}  // namespace ashlar::api
