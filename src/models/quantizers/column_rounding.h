// GPTQ's way through the columns of R, whatever the codes are: from the last to the first, those behind brought in by a
// product for a piece of columns at once.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/matrix.h"
#include "models/quantizers/gptq.h"

namespace ashlar::models {

// Consecutive columns of R that are rounded without a product in between.
class ColumnPiece {
 public:
  static constexpr int kMost = 256;  // columns

  // Of R [begin, begin + size).
  void set(const Curvature& curvature, int begin, int size);
  int begin() const { return begin_; }
  int size() const { return size_; }
  // Of W, for column i of the piece.
  int column(int i) const { return columns_[i]; }
  float diagonal(int i) const { return turned(i)[i]; }
  // Spreads the error of column i to those before it: left += R's column i * error.
  void spread(float error, int i, float* left) const { kernels::kernels().add_rows(turned(i), 0, &error, 1, i, left); }
  // Where the weights w of columns (i - count, i] would go if nothing were rounded any more: become [count], from
  // column i down.
  void settle(const float* w, const float* left, int i, int count, float* become) const;

 private:
  const float* turned(int i) const { return turned_.data() + static_cast<std::ptrdiff_t>(i) * size_; }
  int begin_ = 0, size_ = 0;
  const int* columns_ = nullptr;
  std::vector<float> turned_;  // R's block, its columns as rows
};

// Belongs to one thread, which the pool helps.
class ColumnRounding {
 public:
  // Pieces of `columns`, at most ColumnPiece::kMost.
  ColumnRounding(const Curvature& curvature, int columns, ThreadPool& pool)
      : curvature_(curvature), columns_(columns), n_(curvature.columns()), pool_(pool) {}

  // w [rows, n]; b as gptq() has it. On any thread of the pool, for each row by itself:
  //   rounder.choose(row, piece, i, left)   column i of the piece is next; left [size]: R e of the columns behind
  //   rounder.round(row, column, target)    -> the value of the code that it takes
  // exhausted: no memory.
  template <class Rounder>
  Status run(std::span<const float> w, std::span<const float> b, Rounder&& rounder) {
    const int rows = static_cast<int>(w.size() / static_cast<std::size_t>(n_));
    error_.resize(w.size());
    if (!b.empty()) TRY(carry(b, rows));
    for (int end = n_; end > 0; end -= std::min(end, columns_)) {
      TRY(begin(std::max(0, end - columns_), end, rows, !b.empty()));
      pool_.for_each(rows, [&](int row, int) { round_row(w.data() + at(row, n_), row, rounder); });
    }
    return {};
  }

 private:
  static std::ptrdiff_t at(int row, int length) { return static_cast<std::ptrdiff_t>(row) * length; }

  template <class Rounder>
  void round_row(const float* w, int row, Rounder& rounder) {
    float left[ColumnPiece::kMost];
    std::copy_n(left_.data() + at(row, piece_.size()), piece_.size(), left);
    for (int i = piece_.size() - 1; i >= 0; --i) {
      const int column = piece_.column(i);
      rounder.choose(row, piece_, i, left);
      const float error = w[column] - rounder.round(row, column, w[column] + left[i] / piece_.diagonal(i));
      error_[static_cast<std::size_t>(at(row, n_) + piece_.begin() + i)] = error;
      piece_.spread(error, i, left);
    }
  }

  Status carry(std::span<const float> b, int rows);
  Status begin(int first, int end, int rows, bool carried);
  Status multiply(int size, int length, const float* x, int rows);

  const Curvature& curvature_;
  int columns_, n_;
  ThreadPool& pool_;
  ColumnPiece piece_;
  std::vector<float> error_;    // [rows, n], in the columns of R
  std::vector<float> carried_;  // [rows, n], likewise: R^-T b
  std::vector<float> left_;     // [rows, piece]: R e of the columns behind
  std::vector<float> strip_;
  kernels::Activations activations_;
};

}  // namespace ashlar::models
