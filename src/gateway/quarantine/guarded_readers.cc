#include <utility>

#include "gateway/quarantine/quarantine.h"

namespace ashlar::gateway {
namespace {

// `done` that ends the pass before it; who got an answer is no suspect any more.
template <class Answer>
auto passing(std::unique_ptr<Quarantine::Pass> pass,
             std::function<void(std::expected<Answer, engine::Generator::Refusal>)> done) {
  return [pass = std::shared_ptr(std::move(pass)),
          done = std::move(done)](std::expected<Answer, engine::Generator::Refusal> answer) mutable {
    if (answer) pass->cleared();
    pass.reset();
    done(std::move(answer));
  };
}

class GuardedEmbedder final : public engine::Embedder {
 public:
  GuardedEmbedder(engine::Embedder& inner, Quarantine& quarantine) : inner_(inner), quarantine_(quarantine) {}
  void embed(engine::EmbedRequest request, Done done) override {
    auto pass = quarantine_.enter(prompt_hash(request));
    if (!pass) return done(std::unexpected(std::move(pass.error())));
    inner_.embed(std::move(request), passing<engine::Embeddings>(std::move(*pass), std::move(done)));
  }

 private:
  engine::Embedder& inner_;
  Quarantine& quarantine_;
};

class GuardedReranker final : public engine::Reranker {
 public:
  GuardedReranker(engine::Reranker& inner, Quarantine& quarantine) : inner_(inner), quarantine_(quarantine) {}
  void rerank(engine::RerankRequest request, Done done) override {
    auto pass = quarantine_.enter(prompt_hash(request));
    if (!pass) return done(std::unexpected(std::move(pass.error())));
    inner_.rerank(std::move(request), passing<engine::Ranking>(std::move(*pass), std::move(done)));
  }

 private:
  engine::Reranker& inner_;
  Quarantine& quarantine_;
};

}  // namespace

std::unique_ptr<engine::Embedder> guarded(engine::Embedder& inner, Quarantine& quarantine) {
  return std::make_unique<GuardedEmbedder>(inner, quarantine);
}

std::unique_ptr<engine::Reranker> guarded(engine::Reranker& inner, Quarantine& quarantine) {
  return std::make_unique<GuardedReranker>(inner, quarantine);
}

}  // namespace ashlar::gateway
