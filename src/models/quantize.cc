#include "models/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/blocks.h"
#include "models/formats/gguf_writer.h"

namespace ashlar::models {
namespace {

using kernels::Type;

constexpr std::int64_t kPiece = 16384;         // elements that a thread takes at once, or a row: whole blocks
constexpr std::int64_t kRound = kPiece * 512;  // elements between two looks at the watch, at least
constexpr float kMostF16 = 65504;
constexpr int kWholeBlocks = 256;  // elements that are whole blocks of any type

bool is_quantized(Type type) { return kernels::type_info(type).block > 1; }

// Others are few, and what they hold is needed exactly.
bool is_matrix(const gguf::Tensor& tensor) {
  constexpr std::string_view kKept[] = {"position_embd.weight", "token_types.weight"};
  return tensor.rank > 1 && tensor.name.ends_with(".weight") && !tensor.name.ends_with("_norm.weight") &&
         !tensor.name.ends_with("ffn_gate_inp.weight") && std::ranges::find(kKept, tensor.name) == std::end(kKept);
}

// 3 of "blk.3.attn_v.weight"; -1: outside the layers.
int layer_of(std::string_view name) {
  int layer = -1;
  if (name.starts_with("blk.")) std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  return layer;
}

TensorChange change_of(const gguf::Tensor& tensor, const LoadedModel& model, const Mix& mix, bool importance) {
  TensorChange change{.tensor = &tensor};
  if (!is_matrix(tensor)) return change;
  const bool tied = model.file->find_tensor("output.weight") == nullptr;
  MatrixPlace place{.name = tensor.name,
                    .layer = layer_of(tensor.name),
                    .columns = static_cast<int>(tensor.columns() % kWholeBlocks),
                    .output = tensor.name == "output.weight" || (tied && tensor.name == "token_embd.weight"),
                    .importance = importance};
  change.type = choose_type(mix, model.shape, place);
  place.columns = kWholeBlocks;
  const Type wanted = choose_type(mix, model.shape, place);
  if (wanted != change.type) change.wanted = wanted;
  return change;
}

Status check_requantizing(const LoadedModel& model, const TensorChange& change) {
  const Type from = change.tensor->type;
  if (from == change.type || !is_quantized(from) || !is_quantized(change.type)) return {};
  return Error{
      Code::invalid,
      fmt::format("{}: tensor {} is {} already; what that rounding lost does not come back, so {} made of it is "
                  "worse than {} made of the original F16, BF16 or F32 file",
                  model.file->path(), gguf::quoted(change.tensor->name), kernels::type_info(from).name,
                  kernels::type_info(change.type).name, kernels::type_info(change.type).name)};
}

void add_keys(const gguf::File& file, const Mix& mix, gguf::Writer& writer) {
  for (const gguf::Key& key : file.keys()) {
    // How the old file was stored; the writer has its own way.
    if (key.name == "general.file_type" || key.name == "general.quantization_version" ||
        key.name == "general.alignment" || key.name.starts_with("split."))
      continue;
    writer.add(key.name, key.value);
  }
  writer.add("general.file_type", static_cast<std::uint32_t>(mix.file_type));
  writer.add("general.quantization_version", std::uint32_t{2});
}

// The greatest magnitude; infinity if one is not finite.
float greatest(const float* x, std::int64_t n) {
  float most = 0;
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) {
    const float magnitude = std::abs(x[i]);
    finite &= magnitude <= std::numeric_limits<float>::max();
    most = std::max(most, magnitude);
  }
  return finite ? most : std::numeric_limits<float>::infinity();
}

// Rewrites tensors one after another.
class Rewriter {
 public:
  Rewriter(const LoadedModel& model, const Importance* importance, ThreadPool& pool, const QuantizeWatch& watch)
      : model_(model), importance_(importance), pool_(pool), watch_(watch) {}

  // Whether to go on.
  Status look() const { return watch_(done_, tensor_); }

  // The tensor's new bytes, valid until the next call.
  Result<std::span<const std::byte>> rewrite(const TensorChange& change) {
    const gguf::Tensor& tensor = *change.tensor;
    tensor_ = tensor.name;
    if (given_ != nullptr) given_->made_in->release(*given_->made);  // it is written by now
    given_ = change.made != nullptr ? &change : nullptr;
    if (change.made != nullptr) {
      done_ += tensor.elements();
      return change.made->data;
    }
    source_ = TRY(model_.file->read(tensor, room_));
    bytes_.resize(change.bytes());
    weights_.clear();
    if (importance_ != nullptr && is_quantized(change.type)) weights_ = importance_->weights_of(tensor);
    // Where columns matter differently a piece is whole rows.
    piece_ = weights_.empty() ? kPiece : tensor.columns() * std::max<std::int64_t>(1, kPiece / tensor.columns());
    floats_.resize(static_cast<std::size_t>(pool_.size() * piece_));
    const std::int64_t round = piece_ * std::max<std::int64_t>(1, kRound / piece_);
    for (std::int64_t first = 0; first < tensor.elements(); first += round) {
      TRY(look());
      const std::int64_t count = std::min(round, tensor.elements() - first);
      most_ = 0;
      pool_.for_each(static_cast<int>((count + piece_ - 1) / piece_), [&](int index, int worker) {
        const std::int64_t begin = index * piece_;
        rewrite_piece(change, first + begin, std::min(piece_, count - begin), worker);
      });
      TRY(check_values(change));
      done_ += count;
    }
    model_.file->release(tensor);
    return std::span<const std::byte>(bytes_);
  }

 private:
  // Rows are whole blocks of both types, so pieces need not end where rows end.
  void rewrite_piece(const TensorChange& change, std::int64_t first, std::int64_t count, int worker) {
    const gguf::Tensor& tensor = *change.tensor;
    float* x = floats_.data() + worker * piece_;
    const std::byte* from = source_.data() + kernels::row_bytes(tensor.type, first);
    std::byte* to = bytes_.data() + kernels::row_bytes(change.type, first);
    kernels::dequantize_row(tensor.type, from, x, count);
    const float most = greatest(x, count);
    float seen = most_.load(std::memory_order_relaxed);
    while (most > seen && !most_.compare_exchange_weak(seen, most, std::memory_order_relaxed)) continue;
    if (tensor.type == change.type)
      std::memcpy(to, from, kernels::row_bytes(tensor.type, count));
    else if (weights_.empty())
      kernels::quantize_row(change.type, x, to, count);
    else
      quantize_rows(change, first, count, x, to);
  }

  void quantize_rows(const TensorChange& change, std::int64_t first, std::int64_t count, const float* x,
                     std::byte* to) const {
    const gguf::Tensor& tensor = *change.tensor;
    const std::int64_t columns = tensor.columns(), matrix = columns * tensor.dims[1];
    const auto weights = static_cast<std::int64_t>(weights_.size());
    for (std::int64_t i = 0; i < count; i += columns, x += columns, to += kernels::row_bytes(change.type, columns))
      kernels::quantize_row(change.type, x, to, columns, weights_.data() + (first + i) / matrix * columns % weights);
  }

  Status check_values(const TensorChange& change) const {
    const float most = most_.load(std::memory_order_relaxed);
    if (std::isinf(most))
      return Error{Code::corrupt, fmt::format("{}: tensor {} holds a value that is not finite", model_.file->path(),
                                              gguf::quoted(change.tensor->name))};
    const bool wide = change.type == Type::f32 || change.type == Type::bf16 || change.type == change.tensor->type;
    if (most > kMostF16 && !wide)
      return Error{Code::invalid,
                   fmt::format("{}: tensor {} holds {:g}, which {} cannot hold, for its numbers of 16 bits end at {}; "
                               "BF16 can",
                               model_.file->path(), gguf::quoted(change.tensor->name), most,
                               kernels::type_info(change.type).name, kMostF16)};
    return {};
  }

  const LoadedModel& model_;
  const Importance* importance_;  // or nullptr
  ThreadPool& pool_;
  const QuantizeWatch& watch_;
  std::int64_t piece_ = 0;      // elements that a thread takes at once
  std::vector<float> floats_;   // [threads][piece_]
  std::vector<float> weights_;  // of this tensor's columns; empty: all alike
  std::vector<std::byte> bytes_;
  std::vector<std::byte> room_;  // for a tensor that lies in no file
  std::span<const std::byte> source_;
  const TensorChange* given_ = nullptr;  // the last one, if its bytes were another file's
  std::atomic<float> most_ = 0;          // of the elements of this round
  std::int64_t done_ = 0;                // elements of all tensors
  std::string_view tensor_;              // the one at work
};

}  // namespace

std::uint64_t TensorChange::bytes() const { return kernels::row_bytes(type, tensor->elements()); }

std::uint64_t QuantizePlan::bytes() const {
  std::uint64_t sum = 0;
  for (const TensorChange& change : tensors) sum += change.bytes();
  return sum;
}

Result<QuantizePlan> plan_quantize(const LoadedModel& model, const Mix& mix, const QuantizeLimits& limits) {
  const std::string& path = model.file->path();
  if (model.file->tensors().empty())
    return Error{Code::unsupported, fmt::format("{}: has a vocabulary but no weights", path)};
  if (is_quantized(mix.type) && model.facts.parameters > limits.rtn_parameters)
    return Error{
        Code::too_large,
        fmt::format("{}: has {:.1f} billion parameters; above {:.1f} billion a few large activations carry much "
                    "of what a model knows, and rounding without regard to them may cost more than it seems",
                    path, static_cast<double>(model.facts.parameters) / 1e9,
                    static_cast<double>(limits.rtn_parameters) / 1e9)};
  QuantizePlan plan{.mix = &mix, .importance = limits.importance};
  for (const gguf::Tensor& tensor : model.file->tensors()) {
    plan.tensors.push_back(change_of(tensor, model, mix, limits.importance != nullptr));
    if (!limits.requantize) TRY(check_requantizing(model, plan.tensors.back()));
  }
  return plan;
}

Status quantize(const LoadedModel& model, const QuantizePlan& plan, ThreadPool& pool, const QuantizeWatch& watch,
                NewFile& out) {
  constexpr std::size_t kWrite = 16 << 20;  // bytes written between two looks at the watch
  gguf::Writer writer;
  add_keys(*model.file, *plan.mix, writer);
  Rewriter rewriter(model, plan.importance, pool, watch);
  for (const TensorChange& change : plan.tensors) {
    const gguf::Tensor& tensor = *change.tensor;
    writer.add_tensor(tensor.name, change.type, {tensor.dims.begin(), tensor.dims.begin() + tensor.rank},
                      change.bytes(), [&] { return rewriter.rewrite(change); });
  }
  return writer.give([&](std::string_view bytes) -> Status {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(kWrite, bytes.size()))) {
      TRY(rewriter.look());
      TRY(out.write(bytes.substr(0, kWrite)));
    }
    return {};
  });
}

}  // namespace ashlar::models
