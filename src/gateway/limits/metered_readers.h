// What MeteredGenerator is to generators, to those who read texts: each request is admitted by the limits before it
// runs, settled to the tokens that were read, and leaves one usage record.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/limits/limits.h"
#include "gateway/limits/usage_record.h"

namespace ashlar::gateway {

// Who admits and accounts, for both. All must outlive it.
struct ReadersMeter {
  engine::Generator& tokens;  // asked how long texts are, where limits want to know
  Limits& limits;
  UsageLedger& ledger;
};

// Refusals as MeteredGenerator's, through `done`. Who gets no answer pays nothing: a request that was refused leaves no
// record, one that failed or whose client left, one of zero. Any thread.
class MeteredEmbedder final : public engine::Embedder {
 public:
  // All must outlive it, and it what it began.
  MeteredEmbedder(engine::Embedder& inner, ReadersMeter meter) : inner_(inner), meter_(meter) {}
  void embed(engine::EmbedRequest request, Done done) override;

 private:
  engine::Embedder& inner_;
  const ReadersMeter meter_;
};

class MeteredReranker final : public engine::Reranker {
 public:
  MeteredReranker(engine::Reranker& inner, ReadersMeter meter) : inner_(inner), meter_(meter) {}
  void rerank(engine::RerankRequest request, Done done) override;

 private:
  engine::Reranker& inner_;
  const ReadersMeter meter_;
};

}  // namespace ashlar::gateway
