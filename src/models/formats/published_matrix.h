// A weight matrix as a quantized checkpoint publishes it, whatever its format:
//
//   W[r, c] = scale(r, g) * (level(code(r, c)) - zero(r, g)),   g = group_of[c]
//
// The readers of the formats make these; quantized_checkpoint.cc turns them into rows of the types that products take.
// The files are hostile: whoever makes one has held every shape against the others, and every number that is used as
// a size or an index against its bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kernels/matrix.h"
#include "models/formats/quantization_config.h"
#include "models/formats/safetensors.h"

namespace ashlar::models {

struct PublishedMatrix {
  // What a code stands for: itself, the 8-bit float of these bits, or one of NF4's or FP4's 16 values.
  enum class Levels { integers, f8_e4m3, f8_e5m2, nf4, fp4 };
  static constexpr int kBand = 16;  // rows that are read at once

  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::int64_t rows = 0, columns = 0;
  Levels levels = Levels::integers;
  int bits = 4;                        // of a code
  int groups = 1;                      // of a row
  std::vector<std::int32_t> group_of;  // [columns]
  std::vector<const safetensors::Tensor*> from;
  // Columns whose weights stand beside the codes, which are not read there: LLM.int8()'s outliers. Or nullptr.
  std::shared_ptr<const kernels::KeptColumns> kept;

  // Codes of the rows [first, first + count): out[i * stride + c]. `first` is a multiple of kBand, count at most kBand.
  std::function<void(std::int64_t first, int count, std::uint8_t* out, std::size_t stride)> codes;
  // [groups] each. Scales may be anything, zeros are within [-256, 256].
  std::function<void(std::int64_t row, float* scales, std::int32_t* zeros)> scales;
};

// What a format's reader found: its matrices, and every tensor that belongs to one of them.
struct Published {
  std::vector<PublishedMatrix> matrices;
  std::set<std::string_view> taken;

  // The matrix, with the tensors that it is made of.
  void add(PublishedMatrix matrix) {
    for (const safetensors::Tensor* tensor : matrix.from) taken.insert(tensor->name);
    matrices.push_back(std::move(matrix));
  }
};

// One reader for each format. corrupt: a part is missing, or parts disagree; unsupported: a variant.
Result<Published> read_gptq(const safetensors::Checkpoint& weights, const QuantizationConfig& config);
Result<Published> read_awq(const safetensors::Checkpoint& weights, const QuantizationConfig& config);
// compressed-tensors; also plain int8 and 8-bit floats with scales beside them, as "fp8" and "fbgemm_fp8" have them.
Result<Published> read_compressed_tensors(const safetensors::Checkpoint& weights, const QuantizationConfig& config);
Result<Published> read_bitsandbytes(const safetensors::Checkpoint& weights, const QuantizationConfig& config);

// What readers share.

// The tensors of one module: "MODULE.qweight", "MODULE.scales", ...
class Module {
 public:
  Module(const safetensors::Checkpoint& weights, std::string_view name) : weights_(weights), name_(name) {}

  const std::string& name() const { return name_; }
  // nullptr: there is none. `suffix`: ".scales"
  const safetensors::Tensor* find(std::string_view suffix) const;
  // corrupt: there is none.
  Result<const safetensors::Tensor*> need(std::string_view suffix) const;
  Error bad(const safetensors::Tensor& tensor, std::string_view what, Code code = Code::corrupt) const;
  Error bad_shape(const safetensors::Tensor& tensor, std::string_view expected) const;

 private:
  const safetensors::Checkpoint& weights_;
  std::string name_;
};

// Names that end in `suffix`, without it.
std::vector<std::string_view> modules_with(const safetensors::Checkpoint& weights, std::string_view suffix);

// One number of a tensor of floats.
class Floats {
 public:
  Floats() = default;
  // corrupt: not F32, F16 or BF16.
  static Result<Floats> of(const Module& module, const safetensors::Tensor& tensor);
  float operator[](std::size_t index) const;

 private:
  const std::byte* data_ = nullptr;
  safetensors::Type type_ = safetensors::Type::f32;
};

inline std::uint32_t word_at(const safetensors::Tensor& tensor, std::size_t index) {
  std::uint32_t word;
  __builtin_memcpy(&word, tensor.data.data() + 4 * index, 4);
  return word;
}

bool is_words(const safetensors::Tensor& tensor);  // I32 or U32
bool has_shape(const safetensors::Tensor& tensor, std::initializer_list<std::int64_t> shape);

inline constexpr std::int64_t kMostColumns = 1 << 24;

// Columns in groups of `size`, the last may be shorter; size 0: one group.
std::vector<std::int32_t> groups_in_order(std::int64_t columns, std::int64_t size);
// g_idx. corrupt: another size than `columns`, or a group that is not below `groups`.
Result<std::vector<std::int32_t>> groups_from(const Module& module, const safetensors::Tensor& tensor,
                                              std::int64_t columns, std::int64_t groups);

}  // namespace ashlar::models
