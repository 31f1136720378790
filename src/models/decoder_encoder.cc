#include "models/decoder_encoder.h"

#include <algorithm>
#include <numeric>

namespace ashlar::models {
namespace {

constexpr int kMaxTexts = 64;  // of one step
std::size_t size(int n) { return static_cast<std::size_t>(n); }

}  // namespace

Result<std::unique_ptr<DecoderEncoder>> DecoderEncoder::create(std::shared_ptr<Model> model, DecoderReading reading,
                                                               ThreadPool& pool) {
  std::unique_ptr<DecoderEncoder> encoder(new DecoderEncoder(std::move(model), std::move(reading), pool));
  DecoderReading& is = encoder->reading_;
  const ClassifierHead* head = encoder->model_->head();
  if (is.pooling == Pooling::none) is.pooling = Pooling::last;
  if (is.pooling != Pooling::rank)
    encoder->outputs_ = encoder->model_->shape().width;
  else if (head != nullptr)
    encoder->outputs_ = head->outputs();
  else if (!is.score_tokens.empty())
    encoder->outputs_ = static_cast<int>(is.score_tokens.size());
  else
    return Error{Code::invalid, "a model that ranks texts needs a classifier, or tokens that say yes and no"};
  const int blocks = is.max_tokens / kBlockTokens + kMaxTexts;
  const KvType type = TRY(kv_type_of("auto"));
  encoder->kv_ = TRY(encoder->model_->make_kv_store(blocks, type));
  encoder->blocks_.resize(size(blocks));
  std::iota(encoder->blocks_.begin(), encoder->blocks_.end(), 0);
  return encoder;
}

int DecoderEncoder::max_texts() const { return kMaxTexts; }

void DecoderEncoder::encode(const EncodeStep& step) {
  const std::size_t texts = step.lengths.size();
  CHECK(texts <= size(max_texts()) && step.tokens.size() <= size(max_tokens()), "a step holds these texts");
  CHECK(step.out.size() == texts * size(outputs_), "room for each text's vector");
  std::vector<Step::Sequence> sequences;
  std::vector<int> asked;
  std::size_t block = 0;
  int row = 0;
  for (const int length : step.lengths) {
    const std::size_t blocks = size((length + kBlockTokens - 1) / kBlockTokens);
    sequences.push_back({.first_row = row, .rows = length, .blocks = std::span(blocks_).subspan(block, blocks)});
    block += blocks;
    if (is_mean())
      for (int i = 0; i < length; ++i) asked.push_back(row + i);
    else
      asked.push_back(reading_.pooling == Pooling::cls ? row : row + length - 1);
    row += length;
  }
  const std::size_t width = size(shape().width), vocabulary = size(shape().vocabulary);
  const bool by_tokens = reading_.pooling == Pooling::rank && model_->head() == nullptr;
  std::vector<float> hidden(by_tokens ? 0 : asked.size() * width), logits(by_tokens ? asked.size() * vocabulary : 0);
  model_->forward({step.tokens, sequences, asked, logits, hidden}, *kv_);
  if (by_tokens) {
    for (std::size_t i = 0; i < texts; ++i)
      for (std::size_t t = 0; t < size(outputs_); ++t)
        step.out[i * size(outputs_) + t] = logits[i * vocabulary + static_cast<std::size_t>(reading_.score_tokens[t])];
  } else if (reading_.pooling == Pooling::rank) {
    model_->head()->apply(hidden.data(), static_cast<int>(texts), step.out, pool_);
  } else if (!is_mean()) {
    std::ranges::copy(hidden, step.out.begin());
  } else {
    for (std::size_t i = 0; i < texts; ++i)
      pool_rows(Pooling::mean, hidden.data() + size(sequences[i].first_row) * width, width, step.lengths[i],
                step.out.subspan(i * width, width));
  }
}

}  // namespace ashlar::models
