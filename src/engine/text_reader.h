// Our own Embedder and Reranker: one loaded encoder under one or more names, with a thread that tokenizes and one
// that computes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/compute_lock.h"
#include "engine/embedder.h"
#include "engine/pair_form.h"
#include "engine/relevance.h"
#include "engine/reranker.h"
#include "models/encoder.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

struct TextReaderOptions {
  int max_text_tokens = 8192;
  int max_num_queued_texts = 16'384;
  int embed_batch_tokens = 512;
  void fields(auto&& field) {
    field("max_text_tokens", max_text_tokens,
          "Most tokens of a text to embed or rank, if the model's context holds them.");
    field("max_num_queued_texts", max_num_queued_texts, "Most texts that wait to be embedded or ranked; more get 429.");
    field("embed_batch_tokens", embed_batch_tokens, "Tokens of texts computed together, unless one text has more.");
  }
};

struct TextReaderParts {
  std::vector<std::string> names;  // served names; at least one
  std::shared_ptr<models::Encoder> encoder;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  // Of an encoder whose pooling is rank: how pairs are written, and which of its scores says that a document fits.
  std::optional<PairForm> pair_form;
  int relevant = 0;
  std::shared_ptr<ComputeLock> turns;            // of all that share the encoder's pool; null: nobody does
  std::chrono::milliseconds request_timeout{0};  // 0: no bound
  std::function<Clock::time_point()> clock = Clock::now;
};

// A text's tokens, too many for one text, are an error that says both numbers. Texts of all requests are computed in
// batches without padding, a request's own in order of length; requests take turns. Destruction fails what waits
// (unavailable) and ends the threads.
class TextReader final : public Embedder, public Reranker {
 public:
  TextReader(TextReaderParts parts, const TextReaderOptions& options);
  ~TextReader() override;

  void embed(EmbedRequest request, Embedder::Done done) override;
  void rerank(RerankRequest request, Reranker::Done done) override;

  const std::vector<std::string>& names() const;
  bool ranks() const;      // else it embeds
  int context() const;     // tokens of a text
  int dimensions() const;  // of its vectors; 0: it ranks

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar::engine
