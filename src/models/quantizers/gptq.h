// GPTQ (Frantar et al. 2022, arXiv:2210.17323): columns are rounded one after another, and those that are still to
// come make up for the error, by the curvature of the layer's output in the weights, H = mean x x^T.
//
// With H = R^T R, R upper triangular, the error e = w - w' of a row costs |R e|^2. Taken from the last column back to
// the first, each column can cancel what the later ones left in its component of R e, but for its own rounding. That
// is the paper's update without an inverse.
//
// Where inputs x are no longer those x0 that the model as it is has, for what comes before was rounded, the output that
// is wanted is w x0 (Li et al. 2025, arXiv:2504.02692). With b = w mean (x0 - x) x^T, a row costs
// e^T H e + 2 b^T e and a constant, which is |R e + R^-T b|^2 and another one: the columns start from R^-T b, not from
// 0. At the end coordinate descent (descent.h) mends what the order of the columns kept from being found.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/types.h"

namespace ashlar::models {

struct GptqOptions {
  float damping = 0.01f;  // of the mean of H's diagonal, added to it
  // Columns with much to lose first, on scales chosen beforehand. Else in the matrix' order, each block's scales
  // chosen when its turn comes, for the weights as they have become.
  bool activation_order = false;
  int rounds = 2;  // of coordinate descent at the end
};

// What is shared by the matrices that meet one input. Frozen; any thread.
class Curvature {
 public:
  // h [n, n], as ProductSum::mean() gives it.
  static Result<Curvature> create(std::vector<float> h, int n, const GptqOptions& options, ThreadPool& pool);

  int columns() const { return static_cast<int>(column_at_.size()); }
  // Of H, damped: [rows, columns] from (row, column) on.
  void piece(int row, int rows, int column, int columns, float* out) const;

  // Row `row` of R: [n], of which what lies before the diagonal is not R's.
  const float* r(int row) const { return r_.data() + static_cast<std::size_t>(row) * column_at_.size(); }
  // The column of H that each column of R is; the last is rounded first.
  std::span<const int> column_at() const { return column_at_; }
  // How much each column's own rounding counts once those after it have made up for it: the square of R's diagonal.
  std::span<const float> importance() const { return importance_; }
  bool ordered() const { return ordered_; }
  int rounds() const { return rounds_; }

 private:
  std::vector<float> r_;         // [n, n]: R, and below its diagonal H in R's order
  std::vector<float> diagonal_;  // of H
  std::vector<int> column_at_;
  std::vector<int> place_;  // the inverse of that
  std::vector<float> importance_;
  bool ordered_ = false;
  int rounds_ = 0;
};

// w [rows, columns] as rows of `type`, a quantized one whose blocks the columns fill. b: as above, [rows, columns], or
// empty: zeros. exhausted: no memory.
Result<std::vector<std::byte>> gptq(std::span<const float> w, std::span<const float> b, kernels::Type type,
                                    const Curvature& curvature, ThreadPool& pool);

}  // namespace ashlar::models
