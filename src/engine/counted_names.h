// What counts how often the names of its models changed, so that whoever keeps an index of them need not ask each time.
#pragma once

#include <cstdint>
#include <optional>

namespace ashlar::engine {

// Beside Generator. Any thread.
class CountedNames {
 public:
  // Another number once models() names others, and not before it does. Nothing: nobody counts now, and it must be
  // asked.
  virtual std::optional<std::uint64_t> names_version() const = 0;

 protected:
  ~CountedNames() = default;
};

// One number for two, another once either is: the finalizer of splitmix64.
inline std::uint64_t mixed_version(std::uint64_t one, std::uint64_t other) {
  std::uint64_t x = one * 0x9e3779b97f4a7c15 + other;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace ashlar::engine
