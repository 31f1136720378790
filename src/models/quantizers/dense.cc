#include "models/quantizers/dense.h"

#include <algorithm>
#include <cmath>

#include "kernels/matrix.h"

namespace ashlar::models {
namespace {

constexpr int kStep = 256;         // columns that are eliminated at once
constexpr int kStrip = 512;        // rows of a product's result at once
constexpr int kRowsAtOnce = 1024;  // of X, multiplied at once

// Calls use(row, column, count, y) with pieces y[count] of T T^T, T [n, k], that cover its upper half.
template <class Use>
Status squares(const float* t, int n, int k, ThreadPool& pool, Use&& use) {
  kernels::Activations activations;
  std::vector<float> y;
  for (int first = 0; first < n; first += kStrip) {  // a strip of columns meets all rows above its end
    const int columns = std::min(kStrip, n - first);
    const kernels::RawMatrix strip{
        .type = kernels::Type::f32,
        .rows = columns,
        .columns = k,
        .data = reinterpret_cast<const std::byte*>(t + static_cast<std::ptrdiff_t>(first) * k)};
    const auto packed = TRY(kernels::pack({&strip, 1}, pool));
    for (int row = 0; row < first + columns; row += kStrip) {
      const int rows = std::min(kStrip, first + columns - row);
      activations.assign(t + static_cast<std::ptrdiff_t>(row) * k, static_cast<std::size_t>(k), rows, k, packed.forms(),
                         pool);
      y.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
      kernels::matmul(packed, activations, y.data(), static_cast<std::size_t>(columns), pool);
      pool.for_each(
          rows, [&](int r, int) { use(row + r, first, columns, y.data() + static_cast<std::ptrdiff_t>(r) * columns); });
    }
  }
  return {};
}

// The diagonal block [size, size] at `a`, alone.
bool factor_block(float* a, std::size_t n, int size) {
  for (int i = 0; i < size; ++i) {
    float* row = a + static_cast<std::size_t>(i) * n;
    if (!(row[i] > 0)) return false;
    const float inverse = 1 / std::sqrt(row[i]);
    for (int k = i; k < size; ++k) row[k] *= inverse;
    for (int j = i + 1; j < size; ++j) {
      float* other = a + static_cast<std::size_t>(j) * n;
      const float factor = row[j];
      for (int k = j; k < size; ++k) other[k] -= factor * row[k];
    }
  }
  return true;
}

// Columns [begin, end) of the rows beside a factored block.
void solve_beside(const float* block, float* a, std::size_t n, int size, int begin, int end) {
  for (int i = 0; i < size; ++i) {
    float* row = a + static_cast<std::size_t>(i) * n;
    const float inverse = 1 / block[static_cast<std::size_t>(i) * n + static_cast<std::size_t>(i)];
    for (int k = begin; k < end; ++k) row[k] *= inverse;
    for (int j = i + 1; j < size; ++j) {
      float* other = a + static_cast<std::size_t>(j) * n;
      const float factor = block[static_cast<std::size_t>(i) * n + static_cast<std::size_t>(j)];
      for (int k = begin; k < end; ++k) other[k] -= factor * row[k];
    }
  }
}

}  // namespace

Status cholesky(std::span<float> a, int n, ThreadPool& pool) {
  const auto stride = static_cast<std::size_t>(n);
  std::vector<float> beside;
  for (int first = 0; first < n; first += kStep) {
    const int size = std::min(kStep, n - first), rest = n - first - size;
    float* block = a.data() + static_cast<std::size_t>(first) * (stride + 1);
    if (!factor_block(block, stride, size)) return Error{Code::invalid, "a matrix is not positive definite"};
    if (rest == 0) break;
    constexpr int kColumns = 256;
    pool.for_each((rest + kColumns - 1) / kColumns, [&](int piece, int) {
      solve_beside(block, block + size, stride, size, piece * kColumns, std::min(rest, (piece + 1) * kColumns));
    });
    beside.resize(static_cast<std::size_t>(rest) * static_cast<std::size_t>(size));
    pool.for_each(rest, [&](int c, int) {
      for (int i = 0; i < size; ++i)
        beside[static_cast<std::size_t>(c) * static_cast<std::size_t>(size) + static_cast<std::size_t>(i)] =
            block[static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(size + c)];
    });
    float* corner = block + static_cast<std::size_t>(size) * (stride + 1);
    TRY(squares(beside.data(), rest, size, pool, [&](int row, int column, int count, const float* y) {
      float* to = corner + static_cast<std::size_t>(row) * stride;
      for (int i = std::max(0, row - column); i < count; ++i) to[column + i] -= y[i];
    }));
  }
  return {};
}

Gram::Gram(int n) : n_(n), sum_(static_cast<std::size_t>(n) * static_cast<std::size_t>(n)) {}

Status Gram::add(const float* x, std::size_t ld, int rows, ThreadPool& pool) {
  held_.resize(static_cast<std::size_t>(n_) * kRowsAtOnce);
  while (rows > 0) {
    const int here = std::min(rows, kRowsAtOnce - kept_);
    constexpr int kColumns = 64;
    pool.for_each((n_ + kColumns - 1) / kColumns, [&](int piece, int) {
      for (int c = piece * kColumns; c < std::min(n_, (piece + 1) * kColumns); ++c)
        for (int r = 0; r < here; ++r)
          held_[static_cast<std::size_t>(c) * kRowsAtOnce + static_cast<std::size_t>(kept_ + r)] =
              x[static_cast<std::size_t>(r) * ld + static_cast<std::size_t>(c)];
    });
    kept_ += here;
    rows_ += here;
    rows -= here;
    x += static_cast<std::size_t>(here) * ld;
    if (kept_ == kRowsAtOnce) TRY(flush(pool));
  }
  return {};
}

Status Gram::flush(ThreadPool& pool) {
  for (int c = 0; c < n_ && kept_ < kRowsAtOnce; ++c)
    std::fill_n(held_.begin() + static_cast<std::ptrdiff_t>(c) * kRowsAtOnce + kept_, kRowsAtOnce - kept_, 0.0f);
  kept_ = 0;
  return squares(held_.data(), n_, kRowsAtOnce, pool, [&](int row, int column, int count, const float* y) {
    float* to = sum_.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(n_) + column;
    for (int i = 0; i < count; ++i) to[i] += y[i];
  });
}

Result<std::vector<float>> Gram::mean(ThreadPool& pool) {
  if (kept_ > 0) TRY(flush(pool));
  held_ = {};
  const float factor = rows_ > 0 ? 1 / static_cast<float>(rows_) : 0;
  pool.for_each(n_, [&](int r, int) {
    float* row = sum_.data() + static_cast<std::size_t>(r) * static_cast<std::size_t>(n_);
    for (int c = r; c < n_; ++c) row[c] *= factor;
  });
  pool.for_each(n_, [&](int r, int) {
    float* row = sum_.data() + static_cast<std::size_t>(r) * static_cast<std::size_t>(n_);
    for (int c = 0; c < r; ++c)
      row[c] = sum_[static_cast<std::size_t>(c) * static_cast<std::size_t>(n_) + static_cast<std::size_t>(r)];
  });
  return std::move(sum_);
}

}  // namespace ashlar::models
