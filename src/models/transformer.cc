#include "models/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace ashlar::models {
namespace {

constexpr int kRowsAmid = 128;  // that a step in another's pause computes at once

// Says that a step is computed, until it ends; holds who was said so before.
class Computing {
 public:
  explicit Computing(bool& flag) : flag_(flag), before_(std::exchange(flag, true)) {}
  ~Computing() { flag_ = before_; }
  bool before() const { return before_; }

 private:
  bool& flag_;
  bool before_;
};

}  // namespace

Result<std::unique_ptr<Transformer>> Transformer::create(const Architecture& architecture, Config config,
                                                         std::unique_ptr<TensorSource> source, int max_rows,
                                                         ThreadPool& pool) {
  std::unique_ptr<Transformer> model(new Transformer(architecture, std::move(config), std::move(source)));
  Weights& weights = model->weights_;
  weights.layers.resize(static_cast<std::size_t>(model->config_.shape.layers));
  for (std::size_t i = 0; i < weights.layers.size(); ++i) weights.layers[i].index = static_cast<int>(i);
  TensorList list;
  architecture.list_tensors(model->config_, weights, list);
  list_head(*model->source_, model->config_.shape.width, model->head_, list);
  TRY(list.check(*model->source_));
  TRY(list.fill(*model->source_, pool));
  if (std::ranges::any_of(weights.rope_factors, [](float factor) { return factor <= 0; }))
    return Error{Code::corrupt,
                 fmt::format("{}: a frequency factor of the rotary embedding is not above 0", model->source_->name())};
  model->places_ = list.places();
  model->pass_ = TRY(Pass::create(model->config_, weights.rope_factors, max_rows, pool));
  model->amid_ = TRY(Pass::create(model->config_, weights.rope_factors, std::min(max_rows, kRowsAmid), pool));
  return model;
}

Result<std::unique_ptr<KvStore>> Transformer::make_kv_store(int blocks, KvType type) const {
  return BlockStore::create(config_.shape, blocks, type);
}

Result<std::shared_ptr<const Adapter>> Transformer::load_adapter(const std::string& path) const {
  const LoraFile file = TRY(open_lora(path, config_.shape));
  return TRY(LoraAdapter::create(file, places_));
}

Work Transformer::work_per_token() const {
  Work work;
  std::int64_t integers = 0, halves = 0;
  // A token meets `times` matrices like this.
  const auto add = [&](const kernels::PackedMatrix& matrix, int times = 1) {
    const std::int64_t weights = static_cast<std::int64_t>(matrix.rows()) * matrix.columns() * times;
    work.weights += weights;
    work.bytes.count += matrix.bytes() * static_cast<std::uint64_t>(times);
    if (matrix.forms().quantized || matrix.forms().int8_tiles)
      integers += weights;
    else if (matrix.forms().bf16_tiles)
      halves += weights;
  };
  for (const Layer& layer : weights_.layers) {
    const Experts& experts = layer.experts;
    for (const auto* matrix : {&layer.qkv, &layer.q_up, &layer.kv_up, &layer.attention_output, &layer.gate_up,
                               &layer.down, &experts.router, &experts.shared_gate_up, &experts.shared_down})
      add(*matrix);
    for (const auto* matrices : {&experts.gate_up, &experts.down})
      if (!matrices->empty()) add(matrices->front(), config_.experts.used);
  }
  add(weights_.output);
  if (2 * integers > work.weights)
    work.products = Work::Products::int8;
  else if (2 * halves > work.weights)
    work.products = Work::Products::bf16;
  return work;
}

void Transformer::forward(const Step& step, KvStore& kv) {
  const int rows = static_cast<int>(step.tokens.size());
  const Computing computing(computing_);
  CHECK(!computing.before() || step.pause == nullptr, "a step in a pause has none itself");
  Pass& pass = computing.before() ? *amid_ : *pass_;
  for (int first = 0; first < rows; first += pass.max_rows()) {
    pass.begin(step, first, std::min(pass.max_rows(), rows - first), static_cast<BlockStore&>(kv));
    architecture_.forward(weights_, pass);
  }
  // Each row that is looked up brings some pages of the file into memory.
  constexpr int kLookedUpAtMost = 256;
  looked_up_ += rows;
  if (looked_up_ < kLookedUpAtMost) return;
  source_->release(*weights_.embedding.tensor, true);
  looked_up_ = 0;
}

}  // namespace ashlar::models
