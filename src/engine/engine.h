// Our own engine behind the Generator face: one loaded model under one or more
// names, one thread that owns its scheduler, cache and batch.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/threads.h"
#include "engine/compute_lock.h"
#include "engine/engine_options.h"
#include "engine/generator.h"
#include "models/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// What was loaded, and what the engine computes with.
struct EngineParts {
  std::vector<std::string> names;  // served names, the first is its own; at least one
  std::shared_ptr<models::Model> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  // null: none
  std::shared_ptr<models::Model> draft_model;               // guesses for `model`; null: none
  std::shared_ptr<const text::Tokenizer> draft_tokenizer;   // its own
  std::int64_t created = 0;                                 // seconds since 1970
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
  int embedding = 0;  // what the model's card says: elements of its vectors, where a TextReader makes such
  Sampling sampling;  // of requests that say nothing

  std::shared_ptr<ThreadPool> pool;    // the model's own, for sampling; null: engine thread alone
  std::shared_ptr<ComputeLock> turns;  // where several engines share a pool or a draft model: one for all of them
  std::function<Clock::time_point()> clock = Clock::now;
};

// Destruction fails what still runs (unavailable) and waits for the engine thread.
class Engine : public Generator {
 public:
  // invalid: options that contradict each other or the model, or a draft model of
  // another vocabulary; exhausted: no memory for keys and values.
  static Result<std::unique_ptr<Engine>> create(EngineParts parts, const EngineOptions& options);
  ~Engine() override;

  // An empty model name means this model; ADAPTER or MODEL:ADAPTER one of its adapters.
  std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) override;
  std::vector<ModelCard> models() const override;
  Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const Chat& chat) const override;
  std::shared_ptr<const CachedPrefixes> cached_prefixes(const std::string& model) const override;
  Load load() const override;
  void load_adapter(AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;

  // Refuses everything new (unavailable) and waits until the rest has ended; what
  // has not by `deadline` fails. true: all ended by themselves.
  bool drain(Clock::time_point deadline);

  int context() const;
  int kv_blocks() const;

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace ashlar::engine
