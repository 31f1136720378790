// What rounding costs in a product's outputs, by plain loops in double precision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/blocks.h"

namespace ashlar::models {

// X^T X over the rows of x [rows, n], divided by their number.
inline std::vector<double> mean_products(const std::vector<float>& x, std::size_t n) {
  std::vector<double> h(n * n);
  const std::size_t rows = x.size() / n;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        h[i * n + j] += double{x[r * n + i]} * double{x[r * n + j]} / static_cast<double>(rows);
  return h;
}

// What rounding w to `bytes` costs in outputs: the sum over rows of e^T H e.
inline double cost(const std::vector<float>& w, kernels::Type type, const std::vector<std::byte>& bytes,
                   const std::vector<double>& h, std::size_t n) {
  std::vector<float> back(w.size());
  kernels::dequantize_row(type, bytes.data(), back.data(), static_cast<std::int64_t>(w.size()));
  double sum = 0;
  for (std::size_t r = 0; r < w.size() / n; ++r)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        sum += (double{back[r * n + i]} - double{w[r * n + i]}) * h[i * n + j] *
               (double{back[r * n + j]} - double{w[r * n + j]});
  return sum;
}

}  // namespace ashlar::models
