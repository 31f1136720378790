// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam: arXiv:1608.01350): a key goes to the next
// member of a ring, clockwise, that is not over its share of the load.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/stable_hash.h"

namespace ashlar::gateway {

// Immutable once built.
class Ring {
 public:
  static constexpr int kPlaces = 256;  // of each member

  Ring() = default;
  explicit Ring(std::span<const std::string> members);

  // The first member, clockwise from `key`, that `takes` says yes to; -1: none did. Each is asked once at most.
  int find(std::uint64_t key, const std::function<bool(int member)>& takes) const;

 private:
  struct Place {
    std::uint64_t at;
    int member;
  };
  std::vector<Place> places_;  // by `at`
  int members_ = 0;
};

// Whether a member that has `load` may take `size` more, where all have `total` and its share of the capacity is
// `share`: load < bound * share * (total + size). With equal members and requests of size 1 it is the paper's rule.
// Some member may always, since one of them has at most its share of the total.
inline bool within_bound(double load, double total, double size, double share, double bound) {
  return load < bound * share * (total + size);
}

}  // namespace ashlar::gateway
