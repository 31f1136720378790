// GPTQ (Frantar et al. 2022, arXiv:2210.17323): columns are rounded one after another, and those that are still to
// come make up for the error, by the curvature of the layer's output in the weights, H = mean x x^T.
//
// With H = R^T R, R upper triangular, the error e = w - w' of a row costs |R e|^2. Taken from the last column back to
// the first, each column can cancel what the later ones left in its component of R e, but for its own rounding. That
// is the paper's update without an inverse.
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
};

// What is shared by the matrices that meet one input. Frozen; any thread.
class Curvature {
 public:
  // h [n, n], as Gram::mean() gives it.
  static Result<Curvature> create(std::vector<float> h, int n, const GptqOptions& options, ThreadPool& pool);

  int columns() const { return static_cast<int>(column_at_.size()); }
  // The diagonal of H: how much each column's own error counts.
  std::span<const float> importance() const { return importance_; }

 private:
  friend class Gptq;
  friend class GroupGptq;
  std::vector<float> r_;        // [n, n]
  std::vector<int> column_at_;  // of H, for each column of R; the last is rounded first
  std::vector<float> importance_;
  bool ordered_ = false;
};

// w [rows, columns] as rows of `type`, a quantized one whose blocks the columns fill. exhausted: no memory.
Result<std::vector<std::byte>> gptq(std::span<const float> w, kernels::Type type, const Curvature& curvature,
                                    ThreadPool& pool);

}  // namespace ashlar::models
