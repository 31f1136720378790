#include "models/tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

std::string dims_text(int rows, int columns) {
  return columns == 0 ? fmt::format("[{}]", rows) : fmt::format("[{}, {}]", columns, rows);
}

Error wrong(const TensorSource& source, std::string_view tensor, std::string_view what, Code code = Code::corrupt) {
  return Error{code, fmt::format("{}: tensor {} {}", source.name(), gguf::quoted(tensor), what)};
}

// Without data.
std::vector<kernels::RawMatrix> stack_of(std::span<const gguf::Tensor* const> tensors) {
  std::vector<kernels::RawMatrix> stack;
  for (const gguf::Tensor* tensor : tensors)
    stack.push_back({.type = tensor->type,
                     .rows = static_cast<int>(tensor->rows()),
                     .columns = static_cast<int>(tensor->columns())});
  return stack;
}

Result<std::vector<float>> read_vector(TensorSource& source, std::span<const gguf::Tensor* const> tensors) {
  std::vector<float> joined;
  for (const gguf::Tensor* tensor : tensors) {
    const std::size_t begin = joined.size();
    joined.resize(begin + static_cast<std::size_t>(tensor->elements()));
    kernels::dequantize_row(tensor->type, TRY(source.data(*tensor)).data(), joined.data() + begin, tensor->elements());
    if (!std::ranges::all_of(std::span(joined).subspan(begin), [](float x) { return std::isfinite(x); }))
      return wrong(source, tensor->name, "holds a value that is not finite");
  }
  return joined;
}

bool plain(kernels::Type type) {
  return type == kernels::Type::f32 || type == kernels::Type::f16 || type == kernels::Type::bf16;
}

}  // namespace

void TensorList::matrix(std::vector<Rows> stacked, int columns, kernels::PackedMatrix& out) {
  needs_.push_back({.use = Use::matrix, .columns = columns, .parts = std::move(stacked), .matrix = &out});
}

void TensorList::matrix_or(std::string name, std::string otherwise, int rows, int columns, kernels::PackedMatrix& out) {
  matrix({{std::move(name), rows}}, columns, out);
  needs_.back().otherwise = std::move(otherwise);
}

void TensorList::vector(std::vector<Rows> joined, std::vector<float>& out) {
  needs_.push_back({.use = Use::vector, .parts = std::move(joined), .vector = &out});
}

void TensorList::optional_vector(std::vector<Rows> joined, std::vector<float>& out) {
  vector(std::move(joined), out);
  needs_.back().optional = true;
}

void TensorList::embedding(std::string name, int rows, int width, Embedding& out) {
  needs_.push_back({.use = Use::embedding, .columns = width, .parts = {{std::move(name), rows}}, .embedding = &out});
}

void TensorList::ignore(std::string name) { ignored_.push_back(std::move(name)); }

Status TensorList::check_need(const TensorSource& source, Need& need) const {
  if (!need.otherwise.empty() && source.find(need.parts[0].name) == nullptr) need.parts[0].name = need.otherwise;
  need.found.clear();
  const auto present = [&](const Rows& part) { return source.find(part.name) != nullptr; };
  if (need.optional && std::ranges::none_of(need.parts, present)) return {};
  for (const Rows& part : need.parts) {
    const gguf::Tensor* tensor = source.find(part.name);
    const std::string expected = dims_text(part.rows, need.columns);
    if (tensor == nullptr) return wrong(source, part.name, fmt::format("is missing; {} is expected", expected));
    const std::int64_t columns = need.columns == 0 ? part.rows : need.columns;
    const std::int64_t rows = need.columns == 0 ? 1 : part.rows;
    if (tensor->columns() != columns || tensor->rows() != rows)
      return wrong(source, part.name, fmt::format("is {}; {} is expected", gguf::dims_text(*tensor), expected));
    if (need.use == Use::vector && !plain(tensor->type))
      return wrong(source, part.name,
                   fmt::format("has type {}; F32, F16 or BF16 is expected", kernels::type_info(tensor->type).name),
                   Code::unsupported);
    need.found.push_back(tensor);
  }
  return {};
}

Status TensorList::check(const TensorSource& source) {
  std::set<std::string_view> known(ignored_.begin(), ignored_.end());
  for (Need& need : needs_) {
    TRY(check_need(source, need));
    for (const Rows& part : need.parts) known.insert(part.name);
  }
  // A tensor left over means that the model is not what we would compute.
  for (const gguf::Tensor& tensor : source.tensors())
    if (!known.contains(tensor.name))
      return wrong(source, tensor.name, "has no place in this architecture", Code::unsupported);
  return {};
}

Status TensorList::fill_matrices(TensorSource& source, ThreadPool& pool) const {
  std::vector<const Need*> matrices;
  std::vector<std::size_t> sections;
  for (const Need& need : needs_) {
    if (need.use != Use::matrix || need.found.empty()) continue;
    matrices.push_back(&need);
    sections.push_back(TRY(kernels::packed_bytes(stack_of(need.found))));
  }
  const std::shared_ptr<PackedImage> image = TRY(source.image(sections, pool));
  if (image->origin() != PackedImage::Origin::fresh) {
    for (std::size_t i = 0; i < matrices.size(); ++i)
      *matrices[i]->matrix = TRY(kernels::adopt(stack_of(matrices[i]->found), image->section(i), image));
    return {};
  }
  std::vector<std::size_t> order(matrices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, std::greater(), [&](std::size_t i) { return std::pair(sections[i], matrices.size() - i); });
  for (const std::size_t i : order) {
    const Need& need = *matrices[i];
    std::vector<kernels::RawMatrix> stack = stack_of(need.found);
    for (std::size_t part = 0; part < stack.size(); ++part)
      stack[part].data = TRY(source.data(*need.found[part])).data();
    *need.matrix = TRY(kernels::pack_into(stack, image->room(i), image, pool));
    for (const gguf::Tensor* tensor : need.found) source.release(*tensor, looked_up(tensor));
  }
  source.filled(image, pool);
  return {};
}

TensorPlaces TensorList::places() const {
  TensorPlaces places;
  for (const Need& need : needs_) {
    if (need.use != Use::matrix || need.matrix == nullptr || need.found.empty()) continue;
    int row = 0;
    for (std::size_t i = 0; i < need.found.size(); ++i) {
      const int rows = need.parts[i].rows;
      if (!looked_up(need.found[i]))
        places[need.parts[i].name] = {.matrix = need.matrix, .first_row = row, .rows = rows, .columns = need.columns};
      row += rows;
    }
  }
  return places;
}

bool TensorList::looked_up(const gguf::Tensor* tensor) const {
  return std::ranges::any_of(
      needs_, [&](const Need& need) { return need.use == Use::embedding && need.found.front() == tensor; });
}

Status TensorList::fill(TensorSource& source, ThreadPool& pool) const {
  for (const Need& need : needs_) {
    if (need.use != Use::embedding) continue;
    const gguf::Tensor* tensor = need.found.front();
    *need.embedding = {.type = tensor->type,
                       .width = need.columns,
                       .row_bytes = kernels::row_bytes(tensor->type, need.columns),
                       .rows = TRY(source.data(*tensor)),
                       .tensor = tensor};
  }
  TRY(fill_matrices(source, pool));
  for (const Need& need : needs_) {
    if (need.use != Use::vector || need.found.empty()) continue;
    *need.vector = TRY(read_vector(source, need.found));
    for (const gguf::Tensor* tensor : need.found) source.release(*tensor, looked_up(tensor));
  }
  for (const Need& need : needs_)
    if (need.use == Use::embedding) source.release(*need.found.front(), true);
  return {};
}

}  // namespace ashlar::models
