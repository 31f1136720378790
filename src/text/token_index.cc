#include "text/token_index.h"

#include <unistd.h>

namespace ashlar::text {

std::uint64_t hash_seed() {
  static const std::uint64_t seed = [] {
    std::uint64_t random = 0;
    // Without entropy, an address will do: the loader places it at random.
    if (getentropy(&random, sizeof random) != 0) random = reinterpret_cast<std::uintptr_t>(&random);
    return random;
  }();
  return seed;
}

}  // namespace ashlar::text
