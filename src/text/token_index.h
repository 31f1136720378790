// From bytes to a token's id: an open-addressing table over strings that live
// elsewhere, so that a vocabulary of 300,000 tokens loads without an allocation
// for each.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace ashlar::text {

// Differs from process to process, so that no vocabulary file can be made to
// collide.
std::uint64_t hash_seed();

namespace detail {
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}
template <class Word>
std::uint64_t load(const char* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}
}  // namespace detail

// Multiply-and-fold over 16 bytes a step (the construction of wyhash).
inline std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t seed) {
  using detail::load;
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint64_t state = seed ^ left;
  while (left > 16) {
    state = detail::mix(load<std::uint64_t>(at) ^ state, load<std::uint64_t>(at + 8) ^ 0x9E3779B97F4A7C15u);
    at += 16, left -= 16;
  }
  std::uint64_t a = 0, b = 0;
  if (left >= 8) {
    a = load<std::uint64_t>(at), b = load<std::uint64_t>(at + left - 8);
  } else if (left >= 4) {
    a = load<std::uint32_t>(at), b = load<std::uint32_t>(at + left - 4);
  } else if (left > 0) {
    const auto byte = [&](std::size_t i) { return std::uint64_t{static_cast<unsigned char>(at[i])}; };
    a = (byte(0) << 16) | (byte(left / 2) << 8) | byte(left - 1);
  }
  return detail::mix(a ^ state, b ^ 0xE7037ED1A0B428DBu);
}

// The texts of a vocabulary's tokens.
struct TokenTexts {
  const std::vector<std::string>* tokens;
  std::string_view operator()(TokenId id) const { return (*tokens)[static_cast<std::size_t>(id)]; }
  void prefetch(TokenId id) const { __builtin_prefetch(&(*tokens)[static_cast<std::size_t>(id)]); }
};

// `Texts` gives the bytes of an id: std::string_view operator()(TokenId) const.
template <class Texts>
class TokenIndex {
 public:
  TokenIndex(std::size_t capacity, Texts texts)
      : texts_(std::move(texts)), slots_(std::bit_ceil(2 * capacity + 2)), mask_(slots_.size() - 1) {}

  // -1, or the id that holds equal bytes already (which stays). At most
  // `capacity` ids may be put in.
  TokenId insert(TokenId id) {
    const std::string_view bytes = texts_(id);
    const std::uint64_t hash = hash_bytes(bytes, seed_);
    std::size_t at = hash & mask_;
    for (; slots_[at].id >= 0; at = (at + 1) & mask_)
      if (slots_[at].tag == tag(hash) && texts_(slots_[at].id) == bytes) return slots_[at].id;
    slots_[at] = {tag(hash), id};
    return -1;
  }

  std::uint64_t hash(std::string_view bytes) const { return hash_bytes(bytes, seed_); }

  TokenId find(std::string_view bytes) const { return find(bytes, hash(bytes)); }
  TokenId find(std::string_view bytes, std::uint64_t hash) const {
    for (std::size_t at = hash & mask_; slots_[at].id >= 0; at = (at + 1) & mask_)
      if (slots_[at].tag == tag(hash) && texts_(slots_[at].id) == bytes) return slots_[at].id;
    return -1;
  }

  // For whoever looks many strings up: the first and then the second call, each
  // well before what follows it, hide the time that memory takes.
  void prefetch(std::uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_]); }
  void prefetch_text(std::uint64_t hash) const {
    if (const TokenId id = slots_[hash & mask_].id; id >= 0) texts_.prefetch(id);
  }

 private:
  struct Slot {
    std::uint32_t tag = 0;
    TokenId id = -1;
  };
  static std::uint32_t tag(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32); }

  Texts texts_;
  std::vector<Slot> slots_;  // a power of two, at most half full
  std::size_t mask_;
  std::uint64_t seed_ = hash_seed();
};

}  // namespace ashlar::text
