#include "models/quantizers/column_rounding.h"

namespace ashlar::models {

void ColumnPiece::set(const Curvature& curvature, int begin, int size) {
  begin_ = begin;
  size_ = size;
  columns_ = curvature.column_at().data() + begin;
  turned_.resize(static_cast<std::size_t>(size) * static_cast<std::size_t>(size));
  for (int j = 0; j < size; ++j) {
    const float* row = curvature.r(begin + j) + begin;
    for (int i = j; i < size; ++i) turned_[static_cast<std::size_t>(i * size + j)] = row[i];
  }
}

void ColumnPiece::settle(const float* w, const float* left, int i, int count, float* become) const {
  float after[kMost];
  std::copy_n(left, i + 1, after);
  for (int k = i; k > i - count; --k) {
    const float move = after[k] / diagonal(k);
    become[i - k] = w[column(k)] + move;
    spread(-move, k, after);
  }
}

// The strip [size, length] with some rows of x: left [rows, size].
Status ColumnRounding::multiply(int size, int length, const float* x, int rows) {
  const kernels::RawMatrix raw{.type = kernels::Type::f32,
                               .rows = size,
                               .columns = length,
                               .data = reinterpret_cast<const std::byte*>(strip_.data())};
  const auto packed = TRY(kernels::pack({&raw, 1}, pool_));
  activations_.assign(x, static_cast<std::size_t>(n_), rows, length, packed.forms(), pool_);
  kernels::matmul(packed, activations_, left_.data(), static_cast<std::size_t>(size), pool_);
  return {};
}

// z = R^-T b of some rows, from the first column on.
Status ColumnRounding::carry(std::span<const float> b, int rows) {
  carried_.resize(b.size());
  for (int begin = 0; begin < n_; begin += columns_) {
    const int size = std::min(columns_, n_ - begin);
    left_.assign(static_cast<std::size_t>(at(rows, size)), 0);
    if (begin > 0) {
      strip_.resize(static_cast<std::size_t>(at(size, begin)));
      for (int k = 0; k < begin; ++k) {
        const float* row = curvature_.r(k) + begin;
        for (int i = 0; i < size; ++i) strip_[static_cast<std::size_t>(at(i, begin) + k)] = row[i];
      }
      TRY(multiply(size, begin, carried_.data(), rows));
    }
    pool_.for_each(rows, [&](int row, int) {
      const float *wanted = b.data() + at(row, n_), *left = left_.data() + at(row, size);
      float* z = carried_.data() + at(row, n_) + begin;
      for (int j = 0; j < size; ++j)
        z[j] = wanted[curvature_.column_at()[static_cast<std::size_t>(begin + j)]] - left[j];
      for (int j = 0; j < size; ++j) {
        const float* r = curvature_.r(begin + j) + begin;
        z[j] /= r[j];
        const float factor = -z[j];
        kernels::kernels().add_rows(r + j + 1, 0, &factor, 1, size - j - 1, z + j + 1);
      }
    });
  }
  return {};
}

// Columns of R [first, end) are next: what those behind left, and what was carried to them.
Status ColumnRounding::begin(int first, int end, int rows, bool carried) {
  const int size = end - first, behind = n_ - end;
  left_.assign(static_cast<std::size_t>(at(rows, size)), 0);
  if (behind > 0) {
    strip_.resize(static_cast<std::size_t>(at(size, behind)));
    for (int i = 0; i < size; ++i) std::copy_n(curvature_.r(first + i) + end, behind, strip_.data() + at(i, behind));
    TRY(multiply(size, behind, error_.data() + end, rows));
  }
  for (int row = 0; row < rows && carried; ++row)
    for (int i = 0; i < size; ++i)
      left_[static_cast<std::size_t>(at(row, size) + i)] += carried_[static_cast<std::size_t>(at(row, n_) + first + i)];
  piece_.set(curvature_, first, size);
  return {};
}

}  // namespace ashlar::models
