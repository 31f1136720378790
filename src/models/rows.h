// Some rows of floats.
#pragma once

#include <cstddef>

#include "kernels/matrix.h"

namespace ashlar::models {

// Rows `ld` floats apart.
struct FloatRows {
  std::size_t ld = 0;
  kernels::HugeMemory memory;

  static Result<FloatRows> allocate(int rows, int columns);
  float* data() const { return reinterpret_cast<float*>(memory.data()); }
  float* row(int index) const { return data() + ld * static_cast<std::size_t>(index); }
};

}  // namespace ashlar::models
