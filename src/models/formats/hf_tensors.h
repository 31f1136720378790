// The weights of a Hugging Face folder under the names, and in the order of rows, that GGUF gives them. One table
// for all that reads such folders: loading, converting, adapters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kernels/types.h"
#include "models/formats/gguf.h"
#include "models/formats/hf_config.h"
#include "models/formats/quantized_checkpoint.h"
#include "models/formats/safetensors.h"

namespace ashlar::models {

// A weight as its publisher stores it: one tensor of the files, or what several of them make together (codes, scales
// and zeros of a quantized matrix). Its bytes are rows of `type`.
struct Stored {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  kernels::Type type = kernels::Type::f32;
  std::vector<std::int64_t> shape;               // outermost first: a vector or a matrix
  std::vector<const safetensors::Tensor*> from;  // where it lies
  // Writes all its bytes. Empty: they are those of the one tensor in `from`.
  std::function<Status(std::span<std::byte>)> make;
  std::vector<std::int32_t> order;                   // as QuantizedMatrix has it,
  std::shared_ptr<const kernels::KeptColumns> kept;  // and this
};

// What a checkpoint holds, tensor by tensor; vision and audio towers, tied matrices and old folders' rope frequencies
// left out; a quantized checkpoint's matrices in the types that quantized_checkpoint.h has for `whom`.
// unsupported: a type that this build does not read. `weights` must outlive the result.
Result<std::vector<Stored>> stored_tensors(const safetensors::Checkpoint& weights, const HfConfig& config,
                                           RowsFor whom);

// "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"; empty: none that the architecture has.
std::string gguf_name(std::string_view architecture, std::string_view name);

// "model.layers.0..." of the names that other wrappings of the same model have: "language_model.model.layers.0...",
// "model.language_model.layers.0...".
std::string plain_name(std::string_view name);

// How many heads the rows of the tensor are woven by: the Llama family's rope turns pairs of neighbours in GGUF, and
// halves of a head in these folders. 0: rows stay in their order.
int woven_heads(const Shape& shape, std::string_view gguf_name);

// Where the row of a woven matrix stands in the folder: row h + i and row h + d/2 + i of a head of d rows become rows
// h + 2i and h + 2i + 1.
inline std::size_t row_before_weaving(std::size_t row, std::size_t head_rows) {
  const std::size_t head = row / head_rows * head_rows, within = row % head_rows;
  return head + within % 2 * (head_rows / 2) + within / 2;
}

// A tensor as GGUF has it.
struct Renamed {
  std::string name;
  kernels::Type type = kernels::Type::f32;
  Stored stored;
  int woven_heads = 0;
  float plus = 0;  // added to each element: Gemma's norms are stored less 1

  bool as_it_lies() const { return !stored.make && woven_heads == 0 && plus == 0 && type == stored.type; }
  gguf::Tensor tensor() const;  // without data; its name is this one's
  // `room`: [tensor().bytes()]
  Status make(std::span<std::byte> room) const;
};

// corrupt: a shape that config.json does not allow; unsupported: a tensor that the architecture does not have.
// `place` is what errors call the folder.
Result<Renamed> rename(Stored stored, const Shape& shape, std::string_view place);

}  // namespace ashlar::models
