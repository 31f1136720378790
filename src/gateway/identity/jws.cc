#include "gateway/identity/jws.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::size_t kMaxKeyId = 256;

constexpr std::array<signed char, 256> kValues = [] {
  std::array<signed char, 256> out{};
  out.fill(-1);
  for (std::size_t i = 0; i < kAlphabet.size(); ++i)
    out[static_cast<unsigned char>(kAlphabet[i])] = static_cast<signed char>(i);
  return out;
}();

Error bad(std::string_view why) { return Error{Code::invalid, fmt::format("the token is malformed: {}", why)}; }

// The member `name` as plain text; "" where there is none.
Result<std::string> text_of(const Json& header, const char* name) {
  const auto found = header.find(name);
  if (found == header.end()) return std::string();
  if (!found->is_string()) return bad(fmt::format("its header's '{}' is no string", name));
  const auto& text = found->get_ref<const std::string&>();
  const bool plain = std::ranges::all_of(text, [](char c) { return c >= ' ' && c < 0x7f; });
  if (!plain || text.size() > kMaxKeyId) return bad(fmt::format("its header's '{}' is no plain text", name));
  return text;
}

// "application/AT+JWT" -> "at+jwt"
std::string media_type(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  constexpr std::string_view kPrefix = "application/";
  return text.starts_with(kPrefix) ? text.substr(kPrefix.size()) : text;
}

}  // namespace

Result<std::string> decode_base64url(std::string_view text) {
  const Error wrong{Code::invalid, "not base64url without padding"};
  if (text.size() % 4 == 1) return wrong;
  std::string out;
  out.reserve(text.size() * 3 / 4);
  unsigned held = 0;
  int bits = 0;
  for (const char c : text) {
    const int value = kValues[static_cast<unsigned char>(c)];
    if (value < 0) return wrong;
    held = (held << 6 | static_cast<unsigned>(value)) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    out.push_back(static_cast<char>(held >> bits & 0xff));
  }
  if ((held & ((1u << bits) - 1)) != 0) return wrong;
  return out;
}

std::string encode_base64url(std::string_view bytes) {
  std::string out;
  unsigned held = 0;
  int bits = 0;
  for (const char c : bytes) {
    held = (held << 8 | static_cast<unsigned char>(c)) & 0xffff;
    for (bits += 8; bits >= 6;) {
      bits -= 6;
      out.push_back(kAlphabet[held >> bits & 63]);
    }
  }
  if (bits > 0) out.push_back(kAlphabet[held << (6 - bits) & 63]);
  return out;
}

Result<Jws> parse_jws(std::string_view token) {
  if (token.size() > kMaxToken)
    return Error{Code::too_large, fmt::format("the token is longer than {} bytes", kMaxToken)};
  const auto first = token.find('.'), second = token.find('.', first + 1);
  if (first == token.npos || second == token.npos || token.find('.', second + 1) != token.npos)
    return bad("it has not three parts");
  const auto header_text = decode_base64url(token.substr(0, first));
  auto payload = decode_base64url(token.substr(first + 1, second - first - 1));
  auto signature = decode_base64url(token.substr(second + 1));
  if (!header_text || !payload || !signature) return bad("a part is not base64url");
  if (signature->empty()) return bad("it is not signed");

  const auto header = parse_json(*header_text, {.depth = 8, .members = 32, .elements = 32, .unique = true});
  if (!header || !header->is_object()) return bad("its header is no JSON object whose members have different names");
  for (const char* name : {"crit", "b64", "zip"})
    if (header->contains(name)) return bad(fmt::format("its header's '{}' is not understood here", name));
  Jws out;
  out.algorithm = TRY(text_of(*header, "alg"));
  out.key_id = TRY(text_of(*header, "kid"));
  out.type = media_type(TRY(text_of(*header, "typ")));
  if (media_type(TRY(text_of(*header, "cty"))) == "jwt") return bad("it holds another token");
  out.signed_part = token.substr(0, second);
  out.payload = std::move(*payload);
  out.signature = std::move(*signature);
  return out;
}

}  // namespace ashlar::gateway
