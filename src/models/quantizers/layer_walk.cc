#include "models/quantizers/layer_walk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/blocks.h"

namespace ashlar::models {
namespace {

// The file's tensors, as they are looked for.
class Names final : public TensorSource {
 public:
  explicit Names(const gguf::File& file) : file_(file) {}
  const std::string& name() const override { return file_.path(); }
  std::span<const gguf::Tensor> tensors() const override { return file_.tensors(); }
  const gguf::Tensor* find(std::string_view name) const override { return file_.find_tensor(name); }
  Result<std::span<const std::byte>> data(const gguf::Tensor& tensor) override { return tensor.data; }
  void release(const gguf::Tensor&, bool) override {}

 private:
  const gguf::File& file_;
};

bool in_layer(const TensorList::Need& need, int index) {
  return need.parts.front().name.starts_with(fmt::format("blk.{}.", index));
}

}  // namespace

Result<std::vector<float>> floats_of(const gguf::File& file, const gguf::Tensor& tensor, ThreadPool& pool) {
  std::vector<std::byte> room;
  const auto data = TRY(file.read(tensor, room));
  std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
  const std::size_t columns = static_cast<std::size_t>(tensor.columns());
  const std::size_t row = kernels::row_bytes(tensor.type, tensor.columns());
  pool.for_each(static_cast<int>(tensor.rows()), [&](int r, int) {
    kernels::dequantize_row(tensor.type, data.data() + row * static_cast<std::size_t>(r),
                            out.data() + columns * static_cast<std::size_t>(r), tensor.columns());
  });
  return out;
}

LayerWalk::LayerWalk(const LoadedModel& model, std::span<const std::int32_t> tokens, int window, ThreadPool& pool)
    : model_(model),
      architecture_(*find_architecture(model.facts.architecture)),
      config_(*model.config),
      tokens_(tokens.begin(), tokens.end()),
      window_(window),
      pool_(pool) {}

Result<std::unique_ptr<LayerWalk>> LayerWalk::create(const LoadedModel& model, std::span<const std::int32_t> tokens,
                                                     int window, ThreadPool& pool) {
  CHECK(model.config && !tokens.empty() && tokens.size() % static_cast<std::size_t>(window) == 0,
        "a model with weights, and whole windows");
  std::unique_ptr<LayerWalk> walk(new LayerWalk(model, tokens, window, pool));
  TRY(walk->prepare());
  return walk;
}

Status LayerWalk::prepare() {
  const Shape& s = config_.shape;
  all_.layers.resize(static_cast<std::size_t>(s.layers));
  for (int i = 0; i < s.layers; ++i) all_.layers[static_cast<std::size_t>(i)].index = i;
  architecture_.list_tensors(config_, all_, list_);
  Names names(*model_.file);
  TRY(list_.check(names));
  for (const TensorList::Need& need : list_.needs()) {
    if (need.found.empty() || need.parts.front().name.starts_with("blk.")) continue;
    if (need.use == TensorList::Use::vector) TRY(fill(need));
    if (need.use != TensorList::Use::embedding) continue;
    const gguf::Tensor& tensor = *need.found.front();
    all_.embedding = {.type = tensor.type,
                      .width = need.columns,
                      .row_bytes = kernels::row_bytes(tensor.type, need.columns),
                      .rows = TRY(model_.file->read(tensor, embedding_)),
                      .tensor = &tensor};
  }
  one_.embedding = all_.embedding;
  one_.output_norm = all_.output_norm;
  one_.rope_factors = all_.rope_factors;
  pass_ = TRY(Pass::create(config_, one_.rope_factors, window_, pool_));
  pass_->listen(this);
  const KvType kv_type = TRY(kv_type_of("auto"));
  kv_ = TRY(BlockStore::create(s, (window_ + kBlockTokens - 1) / kBlockTokens, kv_type));
  x_.resize(tokens_.size() * static_cast<std::size_t>(s.width));
  look_up_ = keep_ = true;
  TRY(run({}));
  look_up_ = false;
  if (all_.embedding.tensor != nullptr) model_.file->release(*all_.embedding.tensor);
  return {};
}

Status LayerWalk::fill(const TensorList::Need& need) {
  std::vector<kernels::RawMatrix> stack;
  std::vector<std::vector<std::byte>> rooms(need.found.size());  // of tensors that lie in no file
  std::vector<std::vector<std::byte>> buffers(need.found.size());
  std::vector<float> joined;
  for (std::size_t i = 0; i < need.found.size(); ++i) {
    const gguf::Tensor* tensor = need.found[i];
    const auto replaced = replaced_.find(tensor);
    const bool other = replaced != replaced_.end();
    const kernels::Type type = other ? replaced->second.type : tensor->type;
    const std::byte* data = other ? replaced->second.bytes.data() : TRY(model_.file->read(*tensor, rooms[i])).data();
    if (need.use == TensorList::Use::matrix) {
      stack.push_back(raw_part(need, i, type, {data, kernels::row_bytes(type, tensor->elements())}, buffers[i]));
      continue;
    }
    const std::size_t begin = joined.size();
    joined.resize(begin + static_cast<std::size_t>(tensor->elements()));
    kernels::dequantize_row(type, data, joined.data() + begin, tensor->elements());
    if (!std::ranges::all_of(std::span(joined).subspan(begin), [](float x) { return std::isfinite(x); }))
      return Error{Code::corrupt, fmt::format("{}: tensor {} holds a value that is not finite", model_.file->path(),
                                              gguf::quoted(tensor->name))};
  }
  if (need.use == TensorList::Use::matrix) return pack(need, std::move(stack));
  *need.vector = std::move(joined);
  return {};
}

Status LayerWalk::pack(const TensorList::Need& need, std::vector<kernels::RawMatrix> stack) const {
  if (need.matrices == nullptr) {
    *need.matrix = TRY(kernels::pack(stack, pool_));
    TensorList::take_columns(need);
    return {};
  }
  need.matrices->clear();
  for (int expert = 0; expert < need.experts; ++expert) {
    need.matrices->push_back(TRY(kernels::pack(stack, pool_)));
    for (kernels::RawMatrix& raw : stack)
      raw.data += kernels::row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(raw.rows);
  }
  TensorList::take_columns(need);
  return {};
}

// A tensor whose matrices are turned meets something else in the file's form than in ours.
void LayerWalk::list_products(const TensorList::Need& need) {
  std::vector<const gguf::Tensor*> tensors;
  for (std::size_t i = 0; i < need.found.size(); ++i)
    if (need.parts[i].turned == 0) tensors.push_back(need.found[i]);
  if (tensors.empty()) return;
  if (need.matrices == nullptr) {
    products_.push_back({need.matrix->data(), std::move(tensors)});
    return;
  }
  for (int expert = 0; expert < need.experts; ++expert)
    experts_.push_back({(*need.matrices)[static_cast<std::size_t>(expert)].data(), tensors, expert});
}

Status LayerWalk::load(int index) {
  if (loaded_ >= 0) {
    for (const TensorList::Need& need : list_.needs())
      if (in_layer(need, loaded_))
        for (const gguf::Tensor* tensor : need.found) model_.file->release(*tensor);
    all_.layers[static_cast<std::size_t>(loaded_)] = {.index = loaded_};
    replaced_.clear();
  }
  loaded_ = index;
  return reload();
}

Status LayerWalk::reload() {
  products_.clear();
  experts_.clear();
  one_.layers.clear();
  for (const TensorList::Need& need : list_.needs()) {
    if (need.found.empty() || !in_layer(need, loaded_)) continue;
    TRY(fill(need));
    if (need.use == TensorList::Use::matrix) list_products(need);
  }
  one_.layers.push_back(std::move(all_.layers[static_cast<std::size_t>(loaded_)]));
  all_.layers[static_cast<std::size_t>(loaded_)] = {.index = loaded_};
  return {};
}

void LayerWalk::replace(const gguf::Tensor& tensor, kernels::Type type, std::vector<std::byte> bytes) {
  replaced_[&tensor] = {type, std::move(bytes)};
}

Status LayerWalk::pass(bool advance, const See& see, const Look& look, const See& see_experts) {
  see_ = see ? &see : nullptr;
  see_experts_ = see_experts ? &see_experts : nullptr;
  keep_ = advance;
  return run(look);
}

void LayerWalk::pass_window(std::size_t index, std::size_t last, const See& see) {
  see_ = &see;
  see_experts_ = nullptr;
  keep_ = false;
  last_ = products_[last].packed;
  run_window(index);
  last_ = nullptr;
}

Status LayerWalk::run(const Look& look) {
  for (std::size_t i = 0; i < windows(); ++i) {
    if (look) TRY(look());
    run_window(i);
  }
  return {};
}

void LayerWalk::run_window(std::size_t index) {
  std::vector<int> blocks(static_cast<std::size_t>(kv_->blocks()));
  std::iota(blocks.begin(), blocks.end(), 0);
  const Step::Sequence sequences[] = {{.rows = window_, .blocks = blocks}};
  at_ = index * static_cast<std::size_t>(window_);
  const Step step{.tokens = std::span(tokens_).subspan(at_, static_cast<std::size_t>(window_)), .sequences = sequences};
  pass_->begin(step, 0, window_, *kv_);
  architecture_.forward(one_, *pass_);
}

bool LayerWalk::enter(float* x, std::size_t ld, int rows) {
  if (look_up_) return false;
  const std::size_t width = static_cast<std::size_t>(config_.shape.width);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    std::copy_n(x_.data() + (at_ + r) * width, width, x + r * ld);
  return true;
}

bool LayerWalk::input(const kernels::PackedMatrix& matrix, float* h, std::size_t ld, int rows) {
  const auto show = [&](std::span<const Product> products, const See* see) {
    if (see == nullptr) return;
    const auto product = std::ranges::find(products, matrix.data(), &Product::packed);
    if (product != products.end()) (*see)(*product, h, ld, rows);
  };
  show(products_, see_);
  show(experts_, see_experts_);
  return last_ == nullptr || matrix.data() != last_;
}

void LayerWalk::leave(const float* x, std::size_t ld, int rows) {
  if (!keep_) return;
  const std::size_t width = static_cast<std::size_t>(config_.shape.width);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    std::copy_n(x + r * ld, width, x_.data() + (at_ + r) * width);
}

}  // namespace ashlar::models
