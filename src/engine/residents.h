// More models than fit into memory, behind one face: each comes when it is asked
// for, and goes when nobody has asked for a while, or when another needs its room;
// the one that was used longest ago goes first.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "engine/generator.h"

namespace ashlar::engine {

struct ResidencyOptions {
  std::chrono::milliseconds keep_alive{-1};  // idle for so long, a model leaves; 0: at once; below 0: never for that
  int max_loaded = 0;                        // most models in memory at once; 0: as many as fit
  std::function<Bytes()> available;          // memory that can be had now
};

struct ResidentModel {
  ModelCard card;  // what is told of it until it has been loaded once
  Bytes bytes;     // about what it takes
  // Called on the residents' thread, never two at once. exhausted: no memory.
  std::function<Result<std::shared_ptr<Generator>>()> load;
};

// A request for a model that is not in memory waits until it is: start() gives its
// ticket at once, and what goes wrong then comes as Failed. A model in use stays;
// one that must make room takes no further requests, which wait, so that it falls
// idle. tokenize(), detokenize() and render() wait for the model on the caller's
// thread. Any thread.
class Residents : public Generator {
 public:
  // invalid: no model, or two of one name. Loads nothing yet.
  static Result<std::unique_ptr<Residents>> create(std::vector<ResidentModel> models, ResidencyOptions options);
  // Fails what waits (unavailable).
  ~Residents() override;

  // Waits until the model is in memory. Errors as its load().
  Status preload(const std::string& model);
  // The names of those in memory now.
  std::vector<std::string> loaded() const;

  // An empty model name means the first.
  std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) override;
  std::vector<ModelCard> models() const override;
  Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const Chat& chat) const override;
  // Of those in memory, as GeneratorSet; what waits for a model counts as waiting.
  Load load() const override;

 private:
  class State;
  explicit Residents(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;  // tickets may outlive us
};

}  // namespace ashlar::engine
