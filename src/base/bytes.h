// Sizes of memory and files, with their unit in the type.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar {

struct Bytes {
  std::uint64_t count = 0;
  constexpr auto operator<=>(const Bytes&) const = default;
};

constexpr Bytes operator""_KiB(unsigned long long n) { return {n << 10}; }
constexpr Bytes operator""_MiB(unsigned long long n) { return {n << 20}; }
constexpr Bytes operator""_GiB(unsigned long long n) { return {n << 30}; }

// "1.5 GiB"
std::string to_string(Bytes bytes);

// "512MiB", "4 GiB", "2g", "1000000". invalid: no number, or an unknown unit.
Result<Bytes> parse_bytes(std::string_view text);

}  // namespace ashlar
