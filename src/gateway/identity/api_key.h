// The text of an API key, and what is kept of it.
//
//   ak-  40 characters chosen at random  6 of a checksum    all of 0-9A-Za-z
//
// The 40 are 238 bits. What is kept is their SHA-256: a slow hash such as bcrypt
// is for passwords, which can be guessed; nobody guesses 238 bits, however fast a
// guess is, and every request would pay for the slowness. The checksum (CRC-32) tells a key
// that was mistyped or cut from one that is wrong, without asking anybody.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace ashlar::gateway {

using KeyHash = std::array<unsigned char, 32>;

struct NewApiKey {
  std::string text;    // shown once, kept nowhere
  std::string prefix;  // "ak-" and 8 characters, to know it again by
  KeyHash hash;
};
NewApiKey make_api_key();

enum class KeyText {
  foreign,   // not of this kind
  mistyped,  // it begins as one, and its length or checksum is wrong
  whole,
};
KeyText judge_key_text(std::string_view text);

KeyHash hash_key(std::string_view text);

// `count` characters of 0-9A-Za-z from the system's generator of secrets.
std::string random_base62(std::size_t count);

}  // namespace ashlar::gateway
