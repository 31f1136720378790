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

// H = X^T X over rows of X that come piece by piece: what a matrix is multiplied with, [n, n] of its columns.
class Gram {
 public:
  explicit Gram(int n);
  int columns() const { return n_; }
  std::int64_t rows() const { return rows_; }
  // [rows, n], rows `ld` floats apart; they are copied.
  Status add(const float* x, std::size_t ld, int rows, ThreadPool& pool);
  // All rows that were added, divided by their number: mean products. Call once, then add no more.
  Result<std::vector<float>> mean(ThreadPool& pool);

 private:
  Status flush(ThreadPool& pool);

  int n_;
  std::int64_t rows_ = 0;
  int kept_ = 0;
  std::vector<float> sum_;   // [n, n], the upper half
  std::vector<float> held_;  // [n, kRowsAtOnce]: rows that are still to be multiplied, transposed
};

}  // namespace ashlar::models
