#include "models/quantizers/importance.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/mapped_file.h"
#include "models/formats/gguf_writer.h"

namespace ashlar::models {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr std::int64_t kMostEntries = 1 << 20;

Error broken(std::string_view path, std::string_view what) {
  return Error{Code::corrupt, fmt::format("{}: {}", path, what)};
}

std::vector<float> plain_floats(const gguf::Tensor& tensor) {
  std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(out.data(), tensor.data.data(), out.size() * sizeof(float));
  return out;
}

Status check_entry(const Importance::Entry& entry, std::string_view path, std::string_view name) {
  for (const float value : entry.sums)
    if (!std::isfinite(value) || value < 0)
      return broken(path, fmt::format("{} has a mean square that is not a number from 0 on", gguf::quoted(name)));
  for (const float count : entry.counts)
    if (!std::isfinite(count) || count < 0)
      return broken(path, fmt::format("{} has a count that is not a number from 0 on", gguf::quoted(name)));
  return {};
}

Result<Importance> read_gguf(const std::string& path) {
  const auto file = TRY(gguf::File::open(path));
  const auto type = TRY(file.get<std::string_view>("general.type", ""));
  if (type != "imatrix")
    return broken(path, fmt::format("general.type is {}; an importance matrix has 'imatrix'", gguf::quoted(type)));
  Importance out;
  out.windows = TRY(file.get<std::int64_t>("imatrix.chunk_count", 0));
  out.window = TRY(file.get<std::int32_t>("imatrix.chunk_size", 0));
  if (const gguf::Value* texts = file.find("imatrix.datasets");
      texts != nullptr && texts->type == gguf::ValueType::array) {
    gguf::Elements elements(*texts);
    for (gguf::Value text; elements.next(text);)
      if (const auto name = text.string()) out.texts.emplace_back(*name);
  }
  for (const gguf::Tensor& sums : file.tensors()) {
    if (!sums.name.ends_with(kSums)) continue;
    const std::string name(sums.name.substr(0, sums.name.size() - kSums.size()));
    const gguf::Tensor* counts = file.find_tensor(name + std::string(kCounts));
    if (counts == nullptr || counts->elements() != sums.rows() || counts->type != kernels::Type::f32 ||
        sums.type != kernels::Type::f32)
      return broken(path, fmt::format("{} and its counts do not fit together", gguf::quoted(sums.name)));
    Importance::Entry& entry = out.entries[name];
    entry = {plain_floats(sums), plain_floats(*counts)};
    TRY(check_entry(entry, path, name));
  }
  return out;
}

// The older form: i32 entries | entries | i32 windows | string, with
//   entry: string name | i32 calls | i32 values | f32 values[]     string: i32 bytes | text
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view path) : bytes_(bytes), path_(path) {}

  bool at_end() const { return bytes_.empty(); }
  Result<std::int32_t> number(std::int64_t most) {
    std::int32_t value = 0;
    if (bytes_.size() < sizeof value) return broken(path_, "ends in the middle of an importance matrix");
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    if (value < 0 || value > most) return broken(path_, "is no importance matrix: a count in it is impossible");
    return value;
  }
  Result<std::string> text() {
    const auto size = static_cast<std::size_t>(TRY(number(65535)));
    const auto from = TRY(take(size));
    return std::string(reinterpret_cast<const char*>(from.data()), from.size());
  }
  Result<std::vector<float>> floats() {
    const auto count = static_cast<std::size_t>(TRY(number(1 << 28)));
    const auto from = TRY(take(count * sizeof(float)));
    std::vector<float> out(count);
    std::memcpy(out.data(), from.data(), from.size());
    return out;
  }

 private:
  Result<std::span<const std::byte>> take(std::size_t size) {
    if (size > bytes_.size()) return broken(path_, "ends in the middle of an importance matrix");
    const auto out = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return out;
  }
  std::span<const std::byte> bytes_;
  std::string_view path_;
};

Result<Importance> read_old(std::span<const std::byte> bytes, const std::string& path) {
  Reader reader(bytes, path);
  Importance out;
  const std::int32_t count = TRY(reader.number(kMostEntries));
  if (count == 0) return broken(path, "is an importance matrix without entries");
  for (std::int32_t i = 0; i < count; ++i) {
    const std::string name = TRY(reader.text());
    const auto calls = static_cast<float>(TRY(reader.number(INT32_MAX)));
    Importance::Entry& entry = out.entries[name];
    entry = {TRY(reader.floats()), {calls}};
    TRY(check_entry(entry, path, name));
  }
  if (reader.at_end()) return out;  // the oldest end here
  out.windows = TRY(reader.number(INT32_MAX));
  out.texts.push_back(TRY(reader.text()));
  return out;
}

// Of what one matrix is multiplied with.
struct Squares {
  std::vector<double> sums;
  std::int64_t rows = 0;

  void add(const float* h, std::size_t ld, int count, int columns) {
    sums.resize(static_cast<std::size_t>(columns));
    rows += count;
    for (int r = 0; r < count; ++r)
      for (std::size_t c = 0; c < sums.size(); ++c) {
        const double x = h[static_cast<std::size_t>(r) * ld + c];
        sums[c] += x * x;
      }
  }
};

// One of the matrices that a tensor stacks. Experts that no row was routed to have a count of 0.
void note(const Squares& squares, const gguf::Tensor& tensor, std::int64_t matrix, std::int64_t matrices,
          Importance& out) {
  Importance::Entry& entry = out.entries[std::string(tensor.name)];
  const auto columns = static_cast<std::size_t>(tensor.columns()), at = static_cast<std::size_t>(matrix);
  entry.sums.resize(columns * static_cast<std::size_t>(matrices));
  entry.counts.resize(static_cast<std::size_t>(matrices));
  entry.counts[at] = static_cast<float>(squares.rows);
  std::ranges::copy(squares.sums, entry.sums.begin() + static_cast<std::ptrdiff_t>(columns * at));
}

}  // namespace

std::vector<float> Importance::weights_of(const gguf::Tensor& tensor) const {
  const auto found = entries.find(tensor.name);
  if (found == entries.end()) return {};
  std::vector<float> out = found->second.sums;
  const std::vector<float>& counts = found->second.counts;
  const std::size_t columns = out.size() / counts.size();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float count = counts[i / columns];
    out[i] = count > 0 ? out[i] / count : 1;  // an expert that nobody asked: all columns alike
  }
  return out;
}

Result<Importance> read_importance(const std::string& path) {
  const auto file = TRY(MappedFile::open(path));
  const auto bytes = file.bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) return read_gguf(path);
  return read_old(bytes, path);
}

Status check_importance(const Importance& importance, const LoadedModel& model, std::string_view path) {
  bool any = false;
  for (const gguf::Tensor& tensor : model.file->tensors()) {
    const auto found = importance.entries.find(tensor.name);
    if (found == importance.entries.end()) continue;
    any = true;
    const auto& [sums, counts] = found->second;
    const auto columns = static_cast<std::size_t>(tensor.columns()),
               matrices = static_cast<std::size_t>(tensor.dims[2]);
    if (counts.empty() || sums.size() != columns * matrices || matrices % counts.size() != 0)
      return Error{Code::invalid,
                   fmt::format("{}: has {} columns for tensor {}, which is {}: it was measured on another "
                               "model",
                               path, sums.size(), gguf::quoted(tensor.name), gguf::dims_text(tensor))};
  }
  if (any) return {};
  return Error{Code::invalid, fmt::format("{}: names none of the tensors of {}: it was measured on another model", path,
                                          model.file->path())};
}

std::string importance_file(const Importance& importance) {
  gguf::Writer writer;
  writer.add("general.type", "imatrix");
  writer.add("imatrix.datasets", std::span<const std::string>(importance.texts));
  writer.add("imatrix.chunk_count", static_cast<std::uint32_t>(importance.windows));
  writer.add("imatrix.chunk_size", static_cast<std::uint32_t>(importance.window));
  for (const auto& [name, entry] : importance.entries) {
    const auto matrices = static_cast<std::int64_t>(entry.counts.size());
    writer.add_tensor(name + std::string(kSums), kernels::Type::f32,
                      {static_cast<std::int64_t>(entry.sums.size()) / matrices, matrices},
                      std::as_bytes(std::span(entry.sums)));
    writer.add_tensor(name + std::string(kCounts), kernels::Type::f32, {1, matrices},
                      std::as_bytes(std::span(entry.counts)));
  }
  return writer.bytes().value();  // nothing is produced that could fail
}

Result<Importance> measure_importance(const LoadedModel& model, std::span<const std::int32_t> tokens, int window,
                                      ThreadPool& pool, const ImportanceWatch& watch) {
  const auto walk = TRY(LayerWalk::create(model, tokens, window, pool));
  Importance out{.windows = walk->tokens() / window, .window = window};
  const std::int64_t total = out.windows * walk->layers();
  std::int64_t done = 0;
  std::map<const std::byte*, Squares> seen;
  const LayerWalk::See see = [&](const LayerWalk::Product& product, float* h, std::size_t ld, int rows) {
    seen[product.packed].add(h, ld, rows, product.columns());
  };
  for (int layer = 0; layer < walk->layers(); ++layer) {
    TRY(walk->load(layer));
    seen.clear();
    TRY(walk->pass(true, see, [&] { return watch(done++, total); }, see));
    for (const LayerWalk::Product& product : walk->products())
      for (const gguf::Tensor* tensor : product.tensors) note(seen[product.packed], *tensor, 0, 1, out);
    for (const LayerWalk::Product& product : walk->experts())
      for (const gguf::Tensor* tensor : product.tensors)
        note(seen[product.packed], *tensor, product.expert, tensor->dims[2], out);
  }
  return out;
}

}  // namespace ashlar::models
