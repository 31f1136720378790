// A stable sort whose comparison may fail. std::stable_sort would go on with wrong
// answers, and std::sort may run out of bounds where the order is none (NaN).
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ashlar::text::jinja {

// less(a, b) -> Result<bool>. On an error the items are left in some order.
template <class T, class Less>
Status merge_sort(std::vector<T>& items, Less&& less) {
  std::vector<T> merged(items.size());
  for (std::size_t width = 1; width < items.size(); width *= 2) {
    for (std::size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const std::size_t middle = std::min(begin + width, items.size());
      const std::size_t end = std::min(begin + 2 * width, items.size());
      std::size_t left = begin, right = middle, out = begin;
      while (left < middle && right < end) {
        const bool second = TRY(less(items[right], items[left]));
        merged[out++] = std::move(items[second ? right++ : left++]);
      }
      while (left < middle) merged[out++] = std::move(items[left++]);
      while (right < end) merged[out++] = std::move(items[right++]);
    }
    std::swap(items, merged);
  }
  return {};
}

}  // namespace ashlar::text::jinja
