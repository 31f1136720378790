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

void InputMeasure::see(const LayerWalk::Product& product, const float* h, std::size_t ld, int rows) {
  InputStatistics& input = inputs_[product.packed];
  const auto n = static_cast<std::size_t>(product.columns());
  held_.resize(static_cast<std::size_t>(rows) * n);
  pool_.for_each(rows, [&](int r, int) {
    std::copy_n(h + static_cast<std::size_t>(r) * ld, n, held_.data() + static_cast<std::size_t>(r) * n);
  });
  for (std::size_t i = 0; i < held_.size(); ++i) input.most[i % n] = std::max(input.most[i % n], std::abs(held_[i]));
  const std::vector<float> factors = limits_[product.packed].factors(held_.data(), n, n, rows, pool_);
  for (std::size_t i = 0; i < held_.size(); ++i) held_[i] *= factors[i / n];
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
