// An encoder made of an architecture, its configuration and its weights.
#pragma once

#include <memory>
#include <vector>

#include "base/threads.h"
#include "models/architecture.h"
#include "models/encoder.h"
#include "models/encoder_layers.h"
#include "models/tensors.h"

namespace ashlar::models {

class EncoderModel final : public Encoder {
 public:
  // Checks and packs the source's tensors. A step holds up to `max_tokens`, but not more than one text may have
  // where that is less. The pool must outlive the model. Errors: those of TensorList; unsupported: scores are asked
  // of a file without a classifier; exhausted: no memory.
  static Result<std::unique_ptr<EncoderModel>> create(const EncoderArchitecture& architecture, Config config,
                                                      std::unique_ptr<TensorSource> source, int max_tokens,
                                                      ThreadPool& pool);

  const Shape& shape() const override { return config_.shape; }
  Pooling pooling() const override { return pooling_; }
  int outputs() const override { return pooling_ == Pooling::rank ? weights_.head.outputs() : config_.shape.width; }
  int max_tokens() const override { return pass_->max_tokens(); }
  int max_texts() const override { return pass_->max_texts(); }
  void encode(const EncodeStep& step) override;

 private:
  EncoderModel(const EncoderArchitecture& architecture, Config config, std::unique_ptr<TensorSource> source,
               ThreadPool& pool)
      : architecture_(architecture), config_(std::move(config)), source_(std::move(source)), pool_(pool) {}

  const EncoderArchitecture& architecture_;
  Config config_;
  Pooling pooling_ = Pooling::mean;
  std::unique_ptr<TensorSource> source_;  // holds the embeddings' rows
  ThreadPool& pool_;
  EncoderWeights weights_;
  std::unique_ptr<EncoderPass> pass_;
};

}  // namespace ashlar::models
