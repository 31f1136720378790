#include "models/encoder_model.h"

#include <fmt/format.h>

#include <algorithm>

namespace ashlar::models {
namespace {

constexpr int kMaxTexts = 256;  // of one step

}  // namespace

Result<std::unique_ptr<EncoderModel>> EncoderModel::create(const EncoderArchitecture& architecture, Config config,
                                                           std::unique_ptr<TensorSource> source, int max_tokens,
                                                           ThreadPool& pool) {
  std::unique_ptr<EncoderModel> model(new EncoderModel(architecture, std::move(config), std::move(source), pool));
  EncoderWeights& weights = model->weights_;
  weights.layers.resize(static_cast<std::size_t>(model->config_.shape.layers));
  TensorList list;
  architecture.list_tensors(model->config_, *model->source_, weights, list);
  list_head(*model->source_, model->config_.shape.width, weights.head, list);
  TRY(list.check(*model->source_));
  TRY(list.fill(*model->source_, pool));
  // A file that does not say: a classifier is there to rank, and without one the mean is what most publishers take.
  const Pooling otherwise = weights.head.empty() ? Pooling::mean : Pooling::rank;
  model->pooling_ = model->config_.pooling.value_or(otherwise);
  if (model->pooling_ == Pooling::none) model->pooling_ = Pooling::mean;
  if (model->pooling_ == Pooling::rank && weights.head.empty())
    return Error{Code::unsupported, fmt::format("{}: is said to rank texts, but has no tensor 'cls.weight' or "
                                                "'cls.output.weight'",
                                                model->source_->name())};
  model->pass_ = TRY(EncoderPass::create(model->config_, max_tokens, kMaxTexts, pool));
  return model;
}

void EncoderModel::encode(const EncodeStep& step) {
  pass_->begin(step);
  architecture_.forward(weights_, *pass_);
  const std::size_t width = static_cast<std::size_t>(config_.shape.width);
  std::vector<float> pooled(step.lengths.size() * width);
  int row = 0;
  std::size_t text = 0;
  for (const int length : step.lengths) {
    pool_rows(pooling_, pass_->row(row), pass_->ld(), length, std::span(pooled).subspan(text++ * width, width));
    row += length;
  }
  CHECK(step.out.size() == step.lengths.size() * static_cast<std::size_t>(outputs()), "room for each text's vector");
  if (pooling_ == Pooling::rank)
    weights_.head.apply(pooled.data(), static_cast<int>(step.lengths.size()), step.out, pool_);
  else
    std::ranges::copy(pooled, step.out.begin());
}

}  // namespace ashlar::models
