#include "gateway/routing/ring.h"

#include <algorithm>
#include <string>

namespace ashlar::gateway {

Ring::Ring(std::span<const std::string> members) : members_(static_cast<int>(members.size())) {
  places_.reserve(members.size() * kPlaces);
  for (int member = 0; member < members_; ++member)
    for (int place = 0; place < kPlaces; ++place)
      places_.push_back({stable_hash(members[static_cast<std::size_t>(member)] + '#' + std::to_string(place)), member});
  std::ranges::sort(places_,
                    [](const Place& a, const Place& b) { return a.at != b.at ? a.at < b.at : a.member < b.member; });
}

int Ring::find(std::uint64_t key, const std::function<bool(int)>& takes) const {
  if (places_.empty()) return -1;
  std::vector<bool> asked(static_cast<std::size_t>(members_));
  auto place = std::ranges::lower_bound(places_, key, {}, &Place::at);
  for (int left = members_; left > 0; ++place) {
    if (place == places_.end()) place = places_.begin();
    const auto member = static_cast<std::size_t>(place->member);
    if (asked[member]) continue;
    asked[member] = true;
    --left;
    if (takes(place->member)) return place->member;
  }
  return -1;
}

}  // namespace ashlar::gateway
