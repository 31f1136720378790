// A model made of an architecture, its configuration and its weights.
#pragma once

#include <memory>

#include "base/threads.h"
#include "models/architecture.h"
#include "models/layers.h"
#include "models/model.h"
#include "models/tensors.h"

namespace ashlar::models {

class Transformer final : public Model {
 public:
  // Checks and packs the source's tensors. A step of more than `max_rows` rows
  // is run in pieces of that many. The pool must outlive the model, which uses
  // it in forward(). Errors: those of TensorList; exhausted: no memory.
  static Result<std::unique_ptr<Transformer>> create(const Architecture& architecture, Config config,
                                                     std::unique_ptr<TensorSource> source, int max_rows,
                                                     ThreadPool& pool);

  const Shape& shape() const override { return config_.shape; }
  Work work_per_token() const override;
  Bytes mapped_weights() const override { return source_->mapped(); }
  Bytes kv_block_bytes(KvType type) const override { return BlockStore::block_bytes(config_.shape, type); }
  Result<std::unique_ptr<KvStore>> make_kv_store(int blocks, KvType type) const override;
  void forward(const Step& step, KvStore& kv) override;
  const ClassifierHead* head() const override { return head_.empty() ? nullptr : &head_; }
  Result<std::shared_ptr<const Adapter>> load_adapter(const std::string& path) const override;
  void watch(Profile* profile) override { pass_->watch(profile); }

 private:
  Transformer(const Architecture& architecture, Config config, std::unique_ptr<TensorSource> source)
      : architecture_(architecture), config_(std::move(config)), source_(std::move(source)) {}

  const Architecture& architecture_;
  Config config_;
  std::unique_ptr<TensorSource> source_;  // holds the embedding's rows
  Weights weights_;
  ClassifierHead head_;
  TensorPlaces places_;  // of what adapters may stand beside
  std::unique_ptr<Pass> pass_;
  std::unique_ptr<Pass> amid_;  // of the step in another's pause
  bool computing_ = false;
  int looked_up_ = 0;  // rows of the embedding, since their memory was released
};

}  // namespace ashlar::models
