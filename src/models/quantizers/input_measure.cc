#include "models/quantizers/input_measure.h"

#include <algorithm>
#include <cmath>

namespace ashlar::models {

InputMeasure::InputMeasure(std::span<const LayerWalk::Product> products, std::int64_t tokens, bool with_products,
                           ThreadPool& pool)
    : tokens_(tokens), pool_(pool) {
  for (const LayerWalk::Product& product : products) {
    if (with_products) grams_.try_emplace(product.packed, product.columns());
    inputs_[product.packed] = {.h = {},
                               .magnitude = std::vector<float>(static_cast<std::size_t>(product.columns())),
                               .most = std::vector<float>(static_cast<std::size_t>(product.columns()))};
  }
}

// A few tokens, a text's first above all, have activations many times as large as the others' (Sun et al. 2024,
// arXiv:2402.17762). The next norm takes that back, so they must not outweigh the others here: rows longer than twice
// the usual length, that of the first rows seen, are cut to it.
void InputMeasure::shorten(std::span<float> rows, std::size_t n, double& limit) const {
  std::vector<double> lengths(rows.size() / n);
  pool_.for_each(static_cast<int>(lengths.size()), [&](int r, int) {
    double sum = 1e-30;
    for (const float x : rows.subspan(static_cast<std::size_t>(r) * n, n)) sum += double{x} * double{x};
    lengths[static_cast<std::size_t>(r)] = std::sqrt(sum);
  });
  if (limit == 0) {
    std::vector<double> sorted = lengths;
    std::ranges::nth_element(sorted, sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2));
    limit = 2 * sorted[sorted.size() / 2];
  }
  for (std::size_t r = 0; r < lengths.size(); ++r)
    if (lengths[r] > limit)
      for (float& x : rows.subspan(r * n, n)) x *= static_cast<float>(limit / lengths[r]);
}

void InputMeasure::see(const LayerWalk::Product& product, const float* h, std::size_t ld, int rows) {
  InputStatistics& input = inputs_[product.packed];
  const auto n = static_cast<std::size_t>(product.columns());
  held_.resize(static_cast<std::size_t>(rows) * n);
  pool_.for_each(rows, [&](int r, int) {
    std::copy_n(h + static_cast<std::size_t>(r) * ld, n, held_.data() + static_cast<std::size_t>(r) * n);
  });
  for (std::size_t i = 0; i < held_.size(); ++i) input.most[i % n] = std::max(input.most[i % n], std::abs(held_[i]));
  shorten(held_, n, limits_[product.packed]);
  for (std::size_t i = 0; i < held_.size(); ++i)
    input.magnitude[i % n] += std::abs(held_[i]) / static_cast<float>(tokens_);
  const auto gram = grams_.find(product.packed);
  if (gram != grams_.end() && failed_) failed_ = gram->second.add(held_.data(), n, rows, pool_);
}

Result<std::map<const std::byte*, InputStatistics>> InputMeasure::finish() {
  TRY(std::move(failed_));
  for (auto& [packed, gram] : grams_) inputs_[packed].h = TRY(gram.mean(pool_));
  grams_.clear();
  return std::move(inputs_);
}

}  // namespace ashlar::models
