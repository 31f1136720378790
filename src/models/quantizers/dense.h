// Dense linear algebra for calibration, on the kernels' products. Matrices are row-major floats.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"

namespace ashlar::models {

// A [n, n] symmetric positive definite becomes R, upper triangular, with A = R^T R; what is below the diagonal is left
// as it was. Only A's upper half is read. invalid: not positive definite.
Status cholesky(std::span<float> a, int n, ThreadPool& pool);

// Sums of products over rows that come piece by piece. Rows are taken as bf16, which matrix units multiply; sums are
// floats.
class ProductSum {
 public:
  // The upper half of [n, n] x x^T.
  explicit ProductSum(int n);
  // [left, right] x y^T.
  ProductSum(int left, int right);

  // x [rows, left], rows `ld` floats apart, and y [rows, right], side by side; they are copied. One of them only as
  // the sum was made.
  Status add(const float* x, std::size_t ld, int rows, ThreadPool& pool);
  Status add(const float* x, const float* y, int rows, ThreadPool& pool);
  // The sum divided by the number of rows: mean products, both halves. Call once, then add no more.
  Result<std::vector<float>> mean(ThreadPool& pool);

 private:
  int room() const;
  Status added(int rows, ThreadPool& pool);
  Status flush(ThreadPool& pool);

  int left_, right_;
  bool square_;
  std::int64_t rows_ = 0;
  int kept_ = 0;
  std::vector<float> sum_;            // [left, right]
  std::vector<float> held_, beside_;  // rows still to be multiplied, transposed: [left, ...], [right, ...]
};

}  // namespace ashlar::models
