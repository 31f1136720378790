#include "models/tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <set>

#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

std::string dims_text(int rows, int columns, int experts) {
  if (experts > 0) return fmt::format("[{}, {}, {}]", columns, rows, experts);
  return columns == 0 ? fmt::format("[{}]", rows) : fmt::format("[{}, {}]", columns, rows);
}

Error wrong(const TensorSource& source, std::string_view tensor, std::string_view what, Code code = Code::corrupt) {
  return Error{code, fmt::format("{}: tensor {} {}", source.name(), gguf::quoted(tensor), what)};
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

// Blocks do not outlive a transposition.
kernels::Type packed_type(const TensorList::Need& need, std::size_t part, kernels::Type type) {
  if (need.parts[part].turned > 0 && !plain(type)) return kernels::Type::f16;
  return need.exact && plain(type) ? kernels::Type::f32 : type;
}

// What one matrix of the need is stacked of, without data.
std::vector<kernels::RawMatrix> stack_of(const TensorList::Need& need) {
  std::vector<kernels::RawMatrix> stack;
  for (std::size_t i = 0; i < need.found.size(); ++i)
    stack.push_back(
        {.type = packed_type(need, i, need.found[i]->type), .rows = need.parts[i].rows, .columns = need.columns});
  return stack;
}

std::size_t matrices_of(const TensorList::Need& need) {
  return need.matrices == nullptr ? 1 : static_cast<std::size_t>(need.experts);
}

kernels::PackedMatrix& destination(const TensorList::Need& need, std::size_t index) {
  return need.matrices == nullptr ? *need.matrix : (*need.matrices)[index];
}

// Whether two that share an input have the same columns apart.
bool same_kept(const gguf::Tensor& a, const gguf::Tensor& b) {
  if (a.kept == nullptr || b.kept == nullptr) return a.kept == b.kept;
  return a.kept->columns == b.kept->columns;
}

// [count, rows, columns] to [count, columns, rows].
std::vector<float> transposed(std::span<const float> x, std::size_t count, std::size_t rows, std::size_t columns) {
  std::vector<float> out(x.size());
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c) out[(i * columns + c) * rows + r] = x[(i * rows + r) * columns + c];
  return out;
}

// "blk.7.attn_q.weight" of the layers from 7 on.
bool is_from_layer(std::string_view name, int first) {
  constexpr std::string_view kLayers = "blk.";
  if (!name.starts_with(kLayers)) return false;
  int layer = -1;
  std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
  return layer >= first;
}

}  // namespace

kernels::RawMatrix raw_part(const TensorList::Need& need, std::size_t part, kernels::Type from,
                            std::span<const std::byte> data, std::vector<std::byte>& buffer) {
  const gguf::Tensor& tensor = *need.found[part];
  const kernels::Type type = packed_type(need, part, from);
  const auto turned = static_cast<std::size_t>(need.parts[part].turned);
  kernels::RawMatrix raw{.type = type, .rows = need.parts[part].rows, .columns = need.columns, .data = data.data()};
  if (type == from && turned == 0) return raw;
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  kernels::dequantize_row(from, data.data(), values.data(), tensor.elements());
  if (turned > 0) {
    const auto columns = static_cast<std::size_t>(tensor.columns());
    values = transposed(values, turned, values.size() / (turned * columns), columns);
  }
  buffer.resize(kernels::row_bytes(type, tensor.elements()));
  kernels::quantize_row(type, values.data(), buffer.data(), tensor.elements());
  raw.data = buffer.data();
  return raw;
}

void TensorList::matrix(std::vector<Rows> stacked, int columns, kernels::PackedMatrix& out) {
  needs_.push_back({.use = Use::matrix, .columns = columns, .parts = std::move(stacked), .matrix = &out});
}

void TensorList::matrices(std::vector<Rows> stacked, int columns, int count, std::vector<kernels::PackedMatrix>& out) {
  needs_.push_back(
      {.use = Use::matrix, .columns = columns, .experts = count, .parts = std::move(stacked), .matrices = &out});
}

void TensorList::or_merged(Rows merged) {
  CHECK(needs_.back().use == Use::matrix, "matrices are merged");
  needs_.back().merged = {std::move(merged)};
}

void TensorList::exact_matrix(std::vector<Rows> stacked, int columns, kernels::PackedMatrix& out) {
  matrix(std::move(stacked), columns, out);
  needs_.back().exact = true;
}

void TensorList::matrix_or(std::string name, std::string otherwise, int rows, int columns, kernels::PackedMatrix& out) {
  matrix({{std::move(name), rows}}, columns, out);
  needs_.back().otherwise = std::move(otherwise);
}

void TensorList::vector(std::vector<Rows> joined, std::vector<float>& out) {
  needs_.push_back({.use = Use::vector, .parts = std::move(joined), .vector = &out});
}

void TensorList::vector_rows(Rows rows, int columns, std::vector<float>& out) {
  vector({std::move(rows)}, out);
  needs_.back().columns = columns;
}

void TensorList::optional_vector(std::vector<Rows> joined, std::vector<float>& out) {
  vector(std::move(joined), out);
  needs_.back().optional = true;
}

void TensorList::embedding(std::string name, int rows, int width, Embedding& out) {
  needs_.push_back({.use = Use::embedding, .columns = width, .parts = {{std::move(name), rows}}, .embedding = &out});
}

void TensorList::optional_embedding(std::string name, int rows, int width, Embedding& out) {
  embedding(std::move(name), rows, width, out);
  needs_.back().optional = true;
}

void TensorList::ignore(std::string name) { ignored_.push_back(std::move(name)); }

Status TensorList::check_need(const TensorSource& source, Need& need) const {
  if (!need.otherwise.empty() && source.find(need.parts[0].name) == nullptr) need.parts[0].name = need.otherwise;
  if (!need.merged.empty() && source.find(need.merged[0].name) != nullptr) need.parts = need.merged;
  need.found.clear();
  const auto present = [&](const Rows& part) { return source.find(part.name) != nullptr; };
  if (need.optional && std::ranges::none_of(need.parts, present)) return {};
  for (const Rows& part : need.parts) {
    const gguf::Tensor* tensor = source.find(part.name);
    // As it stands in the file.
    const int columns = need.columns == 0 ? part.rows : part.turned > 0 ? part.rows / part.turned : need.columns;
    const int rows = need.columns == 0 ? 1 : part.turned > 0 ? need.columns : part.rows;
    const int count = part.turned > 0 ? part.turned : need.experts;
    const std::string expected = need.columns == 0 ? dims_text(columns, 0, 0) : dims_text(rows, columns, count);
    if (tensor == nullptr) return wrong(source, part.name, fmt::format("is missing; {} is expected", expected));
    const bool stacked = count == 0 || (tensor->dims[1] == rows && tensor->dims[2] == count);
    if (tensor->columns() != columns || tensor->rows() != std::int64_t{rows} * std::max(1, count) || !stacked)
      return wrong(source, part.name, fmt::format("is {}; {} is expected", gguf::dims_text(*tensor), expected));
    if (need.use == Use::vector && !plain(tensor->type))
      return wrong(source, part.name,
                   fmt::format("has type {}; F32, F16 or BF16 is expected", kernels::type_info(tensor->type).name),
                   Code::unsupported);
    if (!same_kept(*tensor, need.found.empty() ? *tensor : *need.found.front()) ||
        (need.matrix == nullptr && tensor->kept != nullptr))
      return wrong(source, part.name, "keeps outlier columns of its own apart, which is not supported here",
                   Code::unsupported);
    if (!std::ranges::equal(tensor->order, need.found.empty() ? tensor->order : need.found.front()->order) ||
        (need.use != Use::matrix && !tensor->order.empty()))
      return wrong(source, part.name, "has its columns in an order of its own (act-order), which is not supported here",
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
    if (!known.contains(tensor.name) && !is_from_layer(tensor.name, first_ignored_layer_))
      return wrong(source, tensor.name, "has no place in this architecture", Code::unsupported);
  return {};
}

// All matrices of a need, which stand in sections from `first_section` on.
Status TensorList::pack(const Need& need, std::size_t first_section, TensorSource& source,
                        const std::shared_ptr<PackedImage>& image, ThreadPool& pool) const {
  std::vector<kernels::RawMatrix> stack;
  std::vector<std::vector<std::byte>> buffers(need.found.size());
  for (std::size_t part = 0; part < buffers.size(); ++part) {
    const gguf::Tensor& tensor = *need.found[part];
    stack.push_back(raw_part(need, part, tensor.type, TRY(source.data(tensor)), buffers[part]));
  }
  for (std::size_t i = 0; i < matrices_of(need); ++i) {
    destination(need, i) = TRY(kernels::pack_into(stack, image->room(first_section + i), image, pool));
    for (kernels::RawMatrix& raw : stack)
      raw.data += kernels::row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(raw.rows);
  }
  for (const gguf::Tensor* tensor : need.found) source.release(*tensor, looked_up(tensor));
  return {};
}

void TensorList::take_columns(const Need& need) {
  const gguf::Tensor& first = *need.found.front();
  if (const std::span<const std::int32_t> order = first.order; !order.empty()) {
    const auto columns = static_cast<std::size_t>(need.columns);
    CHECK(order.size() == columns * matrices_of(need), "each matrix has an order of its columns");
    for (std::size_t i = 0; i < matrices_of(need); ++i) {
      const auto own = order.subspan(i * columns, columns);
      destination(need, i).set_order({own.begin(), own.end()});
    }
  }
  if (first.kept == nullptr) return;  // those of experts have none
  auto kept = std::make_shared<kernels::KeptColumns>();
  kept->columns = first.kept->columns;
  for (std::size_t k = 0; k < kept->columns.size(); ++k)
    for (const gguf::Tensor* tensor : need.found) {
      const auto rows = static_cast<std::size_t>(tensor->rows());
      const auto from = tensor->kept->weights.begin() + static_cast<std::ptrdiff_t>(k * rows);
      kept->weights.insert(kept->weights.end(), from, from + static_cast<std::ptrdiff_t>(rows));
    }
  need.matrix->set_kept(std::move(kept));
}

Status TensorList::fill_matrices(TensorSource& source, ThreadPool& pool) const {
  struct Place {
    const Need* need;
    std::size_t section, bytes;  // the first of its sections; of all
  };
  std::vector<Place> places;
  std::vector<std::size_t> sections;
  for (const Need& need : needs_) {
    if (need.use != Use::matrix || need.found.empty()) continue;
    const std::size_t count = matrices_of(need), bytes = TRY(kernels::packed_bytes(stack_of(need)));
    places.push_back({&need, sections.size(), count * bytes});
    sections.insert(sections.end(), count, bytes);
    if (need.matrices != nullptr) need.matrices->resize(count);
  }
  const auto take_orders = [&] {
    for (const Place& place : places) take_columns(*place.need);
  };
  const std::shared_ptr<PackedImage> image = TRY(source.image(sections, pool));
  if (image->origin() != PackedImage::Origin::fresh) {
    for (const Place& place : places)
      for (std::size_t i = 0; i < matrices_of(*place.need); ++i)
        destination(*place.need, i) =
            TRY(kernels::adopt(stack_of(*place.need), image->section(place.section + i), image));
    take_orders();
    return {};
  }
  std::ranges::sort(places, std::greater(), [](const Place& p) { return std::pair(p.bytes, ~p.section); });
  for (const Place& place : places) TRY(pack(*place.need, place.section, source, image, pool));
  take_orders();
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
  return std::ranges::any_of(needs_, [&](const Need& need) {
    return need.use == Use::embedding && !need.found.empty() && need.found.front() == tensor;
  });
}

Status TensorList::fill(TensorSource& source, ThreadPool& pool) const {
  for (const Need& need : needs_) {
    if (need.use != Use::embedding || need.found.empty()) continue;
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
    if (need.use == Use::embedding && !need.found.empty()) source.release(*need.found.front(), true);
  return {};
}

}  // namespace ashlar::models
