// A hash that is the same on every machine and in every process, so that several servers agree. Not for secrets.
#pragma once

#include <cstdint>
#include <string_view>

namespace ashlar {

// FNV-1a, then the finalizer of SplitMix64, so that texts that differ in the last byte lie far apart.
constexpr std::uint64_t stable_hash(std::string_view text, std::uint64_t seed = 0) {
  std::uint64_t hash = 0xcbf29ce484222325U ^ seed;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9U;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebU;
  return hash ^ (hash >> 31);
}

}  // namespace ashlar
