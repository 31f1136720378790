// The face of what makes vectors of texts, beside Generator.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "engine/generator.h"

namespace ashlar::engine {

// A text, tokenized with what the model wants around it, or ids, taken as they are.
using TextOrIds = std::variant<std::string, std::vector<std::int32_t>>;

struct EmbedRequest {
  std::string model;  // a served name; empty: the only one, or the first
  std::string tenant;
  std::vector<TextOrIds> inputs;
  int dimensions = 0;  // the first so many of each vector, at length 1 again; 0: all
  int truncate = -1;   // a text is cut to so many tokens; 0: to what the model reads; -1: too long is an error
  KeepAlive keep_alive;
  Clock::time_point deadline = Clock::time_point::max();
  std::stop_token stop;  // the client has left
  Sender sender;         // as Request has them, and the next two
  std::shared_ptr<Notes> notes;
  std::shared_ptr<Delivery> delivery;
};

struct Embeddings {
  int dimensions = 0;
  std::vector<float> values;  // [inputs, dimensions], each of length 1
  int prompt_tokens = 0;
  std::optional<Clock::time_point> asked;  // as Started has it
};

// Any thread may call.
class Embedder {
 public:
  using Done = std::function<void(std::expected<Embeddings, Generator::Refusal>)>;

  virtual ~Embedder() = default;
  // `done` is called exactly once: at once for what is known to be wrong (not_found: no such model; unsupported: it
  // gives no vectors; invalid; exhausted: the queue is full), else later on the embedder's own thread (invalid: a text
  // is too long; cancelled; deadline; unavailable). It is to hand over and return.
  virtual void embed(EmbedRequest request, Done done) = 0;
};

}  // namespace ashlar::engine
