// The matrices of a quantized checkpoint as rows of types that products take: the same values, code for code, wherever
// a type holds them exactly.
//
// What is published                           what becomes of it
// 2 to 4 bits, centred                        Q4_0, under scales that f16 holds
// 4 bits with zeros                           U4Z; in a GGUF file Q5_0
// 8 bits, centred                             Q8_0, or I8 under scales that f16 does not hold
// 8 bits with zeros                           U8Z; in a GGUF file F16
// 8-bit floats, NF4                           F8_E4M3, F8_E5M2, NF4; in a GGUF file F16
// FP4, columns that are not whole blocks,
// scales that change within a block           F16, or BF16 beyond its range
//
// Columns that were quantized in another order (act-order, g_idx) are brought into the order of their groups, and
// `order` says which column of x each of them meets; a GGUF file has no place for that, so they become F16 there.
// Experts of one layer have one type, that all of them fit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/matrix.h"
#include "kernels/types.h"
#include "models/formats/quantization_config.h"
#include "models/formats/safetensors.h"

namespace ashlar::models {

// Who the rows are for: our products, or a GGUF file that other engines read too.
enum class RowsFor { products, gguf };

struct QuantizedMatrix {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  kernels::Type type = kernels::Type::f32;
  std::int64_t rows = 0, columns = 0;
  std::vector<std::int32_t> order;  // [columns], column k of a row is the published order[k]; empty: as published
  std::vector<const safetensors::Tensor*> from;      // what it is made of
  std::shared_ptr<const kernels::KeptColumns> kept;  // columns that `make` leaves 0; nullptr: none
  // Writes all rows, row_bytes(type, columns) each. corrupt: a code that is not a number. Any thread.
  std::function<Status(std::span<std::byte>)> make;
};

struct QuantizedCheckpoint {
  std::vector<QuantizedMatrix> matrices;
  std::vector<const safetensors::Tensor*> plain;  // the tensors that belong to none of them
};

// `weights` must outlive the result. corrupt: parts are missing or disagree, a scale is not finite; unsupported: a
// variant that this build does not read.
Result<QuantizedCheckpoint> read_quantized_checkpoint(const safetensors::Checkpoint& weights,
                                                      const QuantizationConfig& config, RowsFor whom);

}  // namespace ashlar::models
