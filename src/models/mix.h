// Which tensor gets which type in a file "of type Q4_K_M": the choices that the
// published quantized files follow.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/types.h"
#include "models/model.h"

namespace ashlar::models {

struct Mix {
  std::string_view name;   // "Q4_K_M"
  kernels::Type type;      // of most matrices
  std::int32_t file_type;  // general.file_type
};

// By name, in either case; a bare type's name ("Q4_K") is its usual mix. nullptr: unknown.
const Mix* find_mix(std::string_view name);
// By general.file_type. nullptr: unknown.
const Mix* find_mix(std::int64_t file_type);
std::vector<std::string_view> mix_names();

// Where a matrix stands in its model.
struct MatrixPlace {
  std::string_view name;  // "blk.3.attn_v.weight"
  int layer = -1;         // -1: outside the layers
  int columns = 0;
  bool output = false;      // the output matrix, or the embedding that serves as one
  bool importance = false;  // how much each column matters is known
};

kernels::Type choose_type(const Mix& mix, const Shape& shape, const MatrixPlace& place);

}  // namespace ashlar::models
