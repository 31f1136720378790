#include "models/quantizers/product_inputs.h"

#include <algorithm>
#include <cmath>

#include "kernels/matrix.h"
#include "models/quantizers/dense.h"

namespace ashlar::models {
namespace {

using kernels::Type;

// One window's inputs of a product, [rows, n].
std::vector<float> inputs_of(LayerWalk& walk, std::size_t window, std::size_t index) {
  std::vector<float> out;
  const std::byte* packed = walk.products()[index].packed;
  walk.pass_window(window, index, [&](const LayerWalk::Product& product, float* h, std::size_t ld, int rows) {
    if (product.packed != packed) return;
    const auto n = static_cast<std::ptrdiff_t>(product.columns());
    for (int r = 0; r < rows; ++r, h += ld) out.insert(out.end(), h, h + n);
  });
  return out;
}

int rows_of(const LayerWalk::Product& product) {
  std::int64_t rows = 0;
  for (const gguf::Tensor* tensor : product.tensors) rows += tensor->rows();
  return static_cast<int>(rows);
}

}  // namespace

std::vector<float> RowLimit::factors(const float* x, std::size_t ld, std::size_t n, int rows, ThreadPool& pool) {
  std::vector<double> lengths(static_cast<std::size_t>(rows));
  pool.for_each(rows, [&](int r, int) {
    double sum = 1e-30;
    for (const float v : std::span(x + static_cast<std::size_t>(r) * ld, n)) sum += double{v} * double{v};
    lengths[static_cast<std::size_t>(r)] = std::sqrt(sum);
  });
  if (most_ == 0 && rows > 0) {
    std::vector<double> sorted = lengths;
    std::ranges::nth_element(sorted, sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2));
    most_ = 2 * sorted[sorted.size() / 2];
  }
  std::vector<float> out;
  for (const double length : lengths) out.push_back(length > most_ ? static_cast<float>(most_ / length) : 1.0f);
  return out;
}

Result<std::vector<float>> ProductInputs::pull(const LayerWalk::Product& product, const gguf::Tensor& tensor,
                                               std::span<const float> w, ThreadPool& pool) const {
  const auto n = static_cast<std::size_t>(product.columns());
  const int rows = static_cast<int>(tensor.rows());
  if (by_output) {
    std::size_t before = 0;
    for (const gguf::Tensor* other : product.tensors) {
      if (other == &tensor) break;
      before += static_cast<std::size_t>(other->elements());
    }
    const auto from = off.begin() + static_cast<std::ptrdiff_t>(before);
    return std::vector<float>(from, from + static_cast<std::ptrdiff_t>(w.size()));
  }
  const kernels::RawMatrix raw{.type = Type::f32,
                               .rows = product.columns(),
                               .columns = product.columns(),
                               .data = reinterpret_cast<const std::byte*>(off.data())};
  const auto packed = TRY(kernels::pack({&raw, 1}, pool));
  constexpr int kRows = 1024;  // at once
  kernels::Activations activations;
  std::vector<float> out(w.size());
  for (int first = 0; first < rows; first += kRows) {
    const std::size_t at = static_cast<std::size_t>(first) * n;
    activations.assign(w.data() + at, n, std::min(kRows, rows - first), product.columns(), packed.forms(), pool);
    kernels::matmul(packed, activations, out.data() + at, n, pool);
  }
  return out;
}

Result<ProductInputs> measure_inputs(LayerWalk& made, LayerWalk& plain, const ProductNow& now, ThreadPool& pool,
                                     const LayerWalk::Look& look) {
  const LayerWalk::Product& product = made.products()[now.index];
  const int n = product.columns(), outputs = rows_of(product);
  const auto columns = static_cast<std::size_t>(n);
  ProductInputs out;
  out.by_output = outputs < n;
  ProductSum h(n), off(out.by_output ? outputs : n, n);
  kernels::PackedMatrix w;
  if (out.by_output) w = TRY(kernels::pack(now.w, pool));
  kernels::Activations activations;
  RowLimit limit;
  std::vector<float> y;
  for (std::size_t window = 0; window < made.windows(); ++window) {
    TRY(look());
    std::vector<float> x = inputs_of(made, window, now.index), away = inputs_of(plain, window, now.index);
    CHECK(x.size() == away.size(), "both walks meet the same products");
    const int rows = static_cast<int>(x.size() / columns);
    for (std::size_t i = 0; i < away.size() && !now.scale.empty(); ++i) away[i] /= now.scale[i % columns];
    const std::vector<float> factors = limit.factors(x.data(), columns, columns, rows, pool);
    pool.for_each(rows, [&](int r, int) {
      const std::size_t begin = static_cast<std::size_t>(r) * columns;
      for (std::size_t i = begin; i < begin + columns; ++i) {
        away[i] = (away[i] - x[i]) * factors[static_cast<std::size_t>(r)];
        x[i] *= factors[static_cast<std::size_t>(r)];
      }
    });
    TRY(h.add(x.data(), columns, rows, pool));
    if (!out.by_output) {
      TRY(off.add(x.data(), away.data(), rows, pool));
      continue;
    }
    activations.assign(away.data(), columns, rows, n, w.forms(), pool);
    y.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(outputs));
    kernels::matmul(w, activations, y.data(), static_cast<std::size_t>(outputs), pool);
    TRY(off.add(y.data(), x.data(), rows, pool));
  }
  out.h = TRY(h.mean(pool));
  out.off = TRY(off.mean(pool));
  return out;
}

}  // namespace ashlar::models
