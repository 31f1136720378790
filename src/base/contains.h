// Whether a value is among those of a range: std::ranges::contains, which not every standard library has yet.
#pragma once

#include <algorithm>
#include <functional>
#include <ranges>

namespace ashlar {

template <class Range, class Value, class Projection = std::identity>
bool contains(const Range& range, const Value& value, Projection projection = {}) {
  return std::ranges::find(range, value, projection) != std::ranges::end(range);
}

}  // namespace ashlar
