// The face of what says how well documents answer a query, beside Generator.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/generator.h"

namespace ashlar::engine {

struct RerankRequest {
  std::string model;  // a served name; empty: the only one, or the first
  std::string tenant;
  std::string query;
  std::vector<std::string> documents;
  int document_tokens = -1;  // a document is cut to so many tokens; -1: not so
  // A pair is cut to so many tokens, as PairForm does it; 0: to what the model reads; -1: too long is an error.
  int truncate = -1;
  bool raw_scores = false;  // as the classifier gives them; else from 0 to 1
  KeepAlive keep_alive;
  Clock::time_point deadline = Clock::time_point::max();
  std::stop_token stop;  // the client has left
  Sender sender;         // as Request has them, and the next two
  std::shared_ptr<Notes> notes;
  std::shared_ptr<Delivery> delivery;
};

struct Ranking {
  std::vector<float> scores;  // of each document, in the request's order
  int prompt_tokens = 0;
  int cut = 0;                             // of the documents, so many were cut, or their query was
  std::optional<Clock::time_point> asked;  // as Started has it
};

// Any thread may call.
class Reranker {
 public:
  using Done = std::function<void(std::expected<Ranking, Generator::Refusal>)>;

  virtual ~Reranker() = default;
  // `done` as in Embedder.
  virtual void rerank(RerankRequest request, Done done) = 0;
};

}  // namespace ashlar::engine
