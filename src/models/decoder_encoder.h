// A decoder as a reader of texts: what its last layer makes of them, pooled, or the scores of a classifier or of some
// tokens that might come next. (arXiv:2506.05176 does both.)
#pragma once

#include <memory>
#include <vector>

#include "models/encoder.h"
#include "models/model.h"

namespace ashlar::models {

struct DecoderReading {
  Pooling pooling = Pooling::last;
  // With Pooling::rank, where the model has no classifier: the tokens whose logits behind the text are the scores.
  std::vector<std::int32_t> score_tokens;
  int max_tokens = 8192;  // of a step
};

class DecoderEncoder final : public Encoder {
 public:
  // The pool and the model may be shared with others who take turns. invalid: rank, and neither classifier nor score
  // tokens; exhausted: no memory for keys and values of max_tokens.
  static Result<std::unique_ptr<DecoderEncoder>> create(std::shared_ptr<Model> model, DecoderReading reading,
                                                        ThreadPool& pool);

  const Shape& shape() const override { return model_->shape(); }
  Pooling pooling() const override { return reading_.pooling; }
  int outputs() const override { return outputs_; }
  int max_tokens() const override { return reading_.max_tokens; }
  int max_texts() const override;
  void encode(const EncodeStep& step) override;

 private:
  DecoderEncoder(std::shared_ptr<Model> model, DecoderReading reading, ThreadPool& pool)
      : model_(std::move(model)), reading_(std::move(reading)), pool_(pool) {}

  std::shared_ptr<Model> model_;
  DecoderReading reading_;
  ThreadPool& pool_;
  bool is_mean() const { return reading_.pooling == Pooling::mean; }

  std::unique_ptr<KvStore> kv_;
  std::vector<int> blocks_;  // 0, 1, 2, ...: the texts' block tables, one behind the other
  int outputs_ = 0;
};

}  // namespace ashlar::models
