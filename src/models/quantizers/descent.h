// Coordinate descent on rounded weights: codes and scales are moved, one after another, to where the layer's output is
// nearest to what it should be, all others staying as they are (after Behdin et al. 2023, arXiv:2309.01885, which
// moves codes only).
//
// A row that should be w and is v costs (v - w)^T H (v - w) - 2 b^T (v - w). No step raises that.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/blocks.h"
#include "kernels/matrix.h"

namespace ashlar::models {

// Gives a part of a symmetric matrix, [rows, columns] from (row, column) on. Several threads call it.
using Pieces = std::function<void(int row, int rows, int column, int columns, float* out)>;

// Belongs to one thread, which the pool helps.
class Descent {
 public:
  // h [n, n]
  Descent(kernels::Type type, Pieces h, int n, ThreadPool& pool);
  // w [rows, n]; b the same, or empty: zeros; parts [rows, n / the type's block]. Goes over all columns
  // `rounds` times. exhausted: no memory.
  Status run(std::span<const float> w, std::span<const float> b, std::span<kernels::Parts> parts, int rounds);

  // The same for rows as they lie in a file.
  Status run(std::span<const float> w, std::span<const float> b, std::span<std::byte> bytes, int rounds);

 private:
  class Row;
  Status begin(std::span<const float> w, std::span<const float> b, std::span<const kernels::Parts> parts);
  Result<kernels::PackedMatrix> strip(int row, int rows, int column, int columns);
  Status spread(int rows, int begin, int size);

  kernels::Type type_;
  Pieces h_;
  int n_;
  ThreadPool& pool_;
  std::vector<float> gradient_;  // [rows, n]: H (v - w) - b
  std::vector<float> own_;       // the part of h of the columns at work with each other
  std::vector<float> moved_, strip_, y_;
  kernels::Activations activations_;
};

}  // namespace ashlar::models
