#include "models/formats/published_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/blocks.h"
#include "models/formats/gguf.h"

namespace ashlar::models {

const safetensors::Tensor* Module::find(std::string_view suffix) const {
  return weights_.find(fmt::format("{}{}", name_, suffix));
}

Result<const safetensors::Tensor*> Module::need(std::string_view suffix) const {
  const safetensors::Tensor* tensor = find(suffix);
  if (tensor != nullptr) return tensor;
  return Error{Code::corrupt, fmt::format("{}: tensor {} is missing", weights_.path(),
                                          gguf::quoted(fmt::format("{}{}", name_, suffix)))};
}

Error Module::bad(const safetensors::Tensor& tensor, std::string_view what, Code code) const {
  return Error{code, fmt::format("{}: tensor {} {}", weights_.path(), gguf::quoted(tensor.name), what)};
}

Error Module::bad_shape(const safetensors::Tensor& tensor, std::string_view expected) const {
  return bad(tensor, fmt::format("is {} {}; {} is expected", safetensors::name(tensor.type),
                                 safetensors::shape_text(tensor), expected));
}

std::vector<std::string_view> modules_with(const safetensors::Checkpoint& weights, std::string_view suffix) {
  std::vector<std::string_view> names;
  for (const safetensors::Tensor& tensor : weights.tensors())
    if (std::string_view(tensor.name).ends_with(suffix))
      names.push_back(std::string_view(tensor.name).substr(0, tensor.name.size() - suffix.size()));
  return names;
}

Result<Floats> Floats::of(const Module& module, const safetensors::Tensor& tensor) {
  using enum safetensors::Type;
  if (tensor.type != f32 && tensor.type != f16 && tensor.type != bf16)
    return module.bad(tensor, fmt::format("is {}; F32, F16 or BF16 is expected", safetensors::name(tensor.type)));
  Floats out;
  out.data_ = tensor.data.data();
  out.type_ = tensor.type;
  return out;
}

float Floats::operator[](std::size_t index) const {
  if (type_ == safetensors::Type::f32) {
    float value;
    std::memcpy(&value, data_ + 4 * index, 4);
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, data_ + 2 * index, 2);
  return type_ == safetensors::Type::f16 ? kernels::f16_to_f32(half) : kernels::bf16_to_f32(half);
}

bool is_words(const safetensors::Tensor& tensor) {
  return tensor.type == safetensors::Type::i32 || tensor.type == safetensors::Type::u32;
}

bool has_shape(const safetensors::Tensor& tensor, std::initializer_list<std::int64_t> shape) {
  return std::ranges::equal(tensor.shape, shape);
}

std::vector<std::int32_t> groups_in_order(std::int64_t columns, std::int64_t size) {
  std::vector<std::int32_t> groups(static_cast<std::size_t>(columns), 0);
  if (size == 0) return groups;
  for (std::size_t c = 0; c < groups.size(); ++c)
    groups[c] = static_cast<std::int32_t>(c / static_cast<std::size_t>(size));
  return groups;
}

Result<std::vector<std::int32_t>> groups_from(const Module& module, const safetensors::Tensor& tensor,
                                              std::int64_t columns, std::int64_t groups) {
  if (!is_words(tensor) || !has_shape(tensor, {columns}))
    return module.bad_shape(tensor, fmt::format("I32 [{}]", columns));
  std::vector<std::int32_t> out(static_cast<std::size_t>(columns));
  for (std::size_t c = 0; c < out.size(); ++c) {
    out[c] = static_cast<std::int32_t>(word_at(tensor, c));
    if (out[c] < 0 || out[c] >= groups)
      return module.bad(tensor, fmt::format("puts column {} into group {} of {}", c, out[c], groups));
  }
  return out;
}

}  // namespace ashlar::models
