#include "models/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>

#include "kernels/blocks.h"
#include "models/formats/gguf_writer.h"
#include "models/formats/hf_folder.h"
#include "models/formats/lora_file.h"
#include "models/loader.h"

namespace ashlar::models {
namespace {

using kernels::Type;

// What is to be added to which tensor.
using Changes = std::map<std::string_view, std::vector<const LoraWeight*>>;

std::vector<float> floats_of(const kernels::RawMatrix& matrix) {
  std::vector<float> out(static_cast<std::size_t>(matrix.rows) * static_cast<std::size_t>(matrix.columns));
  const std::size_t bytes = kernels::row_bytes(matrix.type, matrix.columns);
  for (std::size_t r = 0; r < static_cast<std::size_t>(matrix.rows); ++r)
    kernels::dequantize_row(matrix.type, matrix.data + bytes * r,
                            out.data() + r * static_cast<std::size_t>(matrix.columns), matrix.columns);
  return out;
}

Result<Changes> changes_of(const gguf::File& file, std::span<const LoraFile> adapters) {
  Changes changes;
  for (const LoraFile& adapter : adapters)
    for (const LoraWeight& weight : adapter.weights) {
      const gguf::Tensor* tensor = file.find_tensor(weight.name);
      if (tensor == nullptr || tensor->columns() != weight.a.columns || tensor->rows() != weight.b.rows)
        return Error{
            Code::invalid,
            fmt::format("{}: the adapter is for another base: its matrices for {} make [{}, {}], this model's {}",
                        adapter.path, gguf::quoted(weight.name), weight.a.columns, weight.b.rows,
                        tensor == nullptr ? "is missing" : "is " + gguf::dims_text(*tensor))};
      if (tensor->type != Type::f32 && tensor->type != Type::f16 && tensor->type != Type::bf16)
        return Error{Code::unsupported,
                     fmt::format("{}: tensor {} is {}; an adapter is merged into F32, F16 or BF16, and the result "
                                 "quantized afterwards",
                                 file.path(), gguf::quoted(weight.name), kernels::type_info(tensor->type).name)};
      changes[tensor->name].push_back(&weight);
    }
  return changes;
}

// W + scale * B A, rounded to the tensor's type.
void merge(const gguf::Tensor& tensor, std::span<const LoraWeight* const> weights, std::vector<std::byte>& bytes) {
  struct Low {
    std::vector<float> a, b;
    std::size_t rank;
    float scale;
  };
  std::vector<Low> lows;
  for (const LoraWeight* weight : weights)
    lows.push_back(
        {floats_of(weight->a), floats_of(weight->b), static_cast<std::size_t>(weight->a.rows), weight->scale});
  const auto columns = static_cast<std::size_t>(tensor.columns());
  const std::size_t row_bytes = kernels::row_bytes(tensor.type, tensor.columns());
  std::vector<float> row(columns);
  for (std::size_t r = 0; r < static_cast<std::size_t>(tensor.rows()); ++r) {
    std::byte* at = bytes.data() + row_bytes * r;
    kernels::dequantize_row(tensor.type, at, row.data(), tensor.columns());
    for (const Low& low : lows)
      for (std::size_t k = 0; k < low.rank; ++k) {
        const float factor = low.scale * low.b[r * low.rank + k];
        for (std::size_t c = 0; c < columns; ++c) row[c] += factor * low.a[k * columns + c];
      }
    kernels::quantize_row(tensor.type, row.data(), at, tensor.columns());
  }
}

}  // namespace

Result<ConvertFacts> convert_model(const std::string& path, const std::vector<std::string>& adapter_paths,
                                   const ConvertWatch& watch, NewFile& out) {
  constexpr std::size_t kWrite = 16 << 20;  // bytes written between two looks at the watch
  gguf::File opened =
      std::filesystem::is_directory(path) ? TRY(open_folder(path, RowsFor::gguf)) : TRY(open_file(path));
  if (!opened.assembled() && adapter_paths.empty())
    return Error{Code::invalid, fmt::format("{}: is a GGUF file already", path)};
  const LoadedModel model = TRY(open_model(std::move(opened)));
  if (!model.config) return Error{Code::unsupported, fmt::format("{}: has a vocabulary but no weights", path)};
  TRY(check_tensors(model));
  const gguf::File& file = *model.file;
  std::vector<LoraFile> adapters;
  for (const std::string& adapter : adapter_paths) adapters.push_back(TRY(open_lora(adapter, model.shape)));
  const Changes changes = TRY(changes_of(file, adapters));
  ConvertFacts facts{.architecture = model.facts.architecture,
                     .tensors = static_cast<int>(file.tensors().size()),
                     .merged = static_cast<int>(changes.size())};
  for (const gguf::Tensor& tensor : file.tensors()) facts.bytes += tensor.bytes();

  gguf::Writer writer;
  for (const gguf::Key& key : file.keys())
    if (!key.name.starts_with("split.") && key.name != "general.alignment") writer.add(key.name, key.value);
  std::vector<std::byte> room;
  std::uint64_t done = 0;  // bytes of the tensors before the one at work
  const gguf::Tensor* now = nullptr;
  const auto produce = [&](const gguf::Tensor& tensor) -> Result<std::span<const std::byte>> {
    if (now != nullptr) {
      file.release(*now);
      done += now->bytes();
    }
    now = &tensor;
    TRY(watch(done, facts.bytes, tensor.name));
    const auto bytes = TRY(file.read(tensor, room));
    const auto change = changes.find(tensor.name);
    if (change == changes.end()) return bytes;
    if (bytes.data() != room.data()) room.assign(bytes.begin(), bytes.end());
    merge(tensor, change->second, room);
    return std::span<const std::byte>(room);
  };
  for (const gguf::Tensor& tensor : file.tensors())
    writer.add_tensor(tensor.name, tensor.type, {tensor.dims.begin(), tensor.dims.begin() + tensor.rank},
                      tensor.bytes(), [&] { return produce(tensor); });
  TRY(writer.give([&](std::string_view bytes) -> Status {
    for (std::size_t at = 0; at < bytes.size(); at += kWrite) {
      if (now != nullptr) TRY(watch(std::min(done + at, facts.bytes), facts.bytes, now->name));
      TRY(out.write(bytes.substr(at, kWrite)));
    }
    return {};
  }));
  return facts;
}

}  // namespace ashlar::models
