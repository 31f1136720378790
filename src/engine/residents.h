// All the models that are served, behind one face, though they may not all fit into
// memory: each comes when it is asked for, and goes when nobody has asked for a
// while, or when another needs its room; the one that was used longest ago goes first.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "engine/counted_names.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"

namespace ashlar::engine {

struct ResidencyOptions {
  std::chrono::milliseconds keep_alive{-1};  // idle for so long, a model leaves; 0: at once; below 0: never for that
  int max_loaded = 0;                        // most models in memory at once; 0: as many as fit
  std::function<Bytes()> available;          // memory that can be had now
};

// What a model in memory answers with.
struct Resident {
  std::shared_ptr<Generator> generator;  // lists its card first, then its adapters'
  std::shared_ptr<Embedder> embedder;    // null: it does not embed
  std::shared_ptr<Reranker> reranker;    // null: it does not rank
};

struct ResidentModel {
  ModelCard card;  // what is told of it until it has been loaded once
  Bytes bytes;     // about what it takes
  // Called on the residents' thread, never two at once. exhausted: no memory.
  std::function<Result<Resident>()> load;
};

// A request for a model that is not in memory waits until it is: start() gives its
// ticket at once, and what goes wrong then comes as Failed. A model in use stays;
// one that must make room takes no further requests, which wait, so that it falls
// idle. tokenize(), detokenize() and render() wait for the model on the caller's
// thread. A model that comes back has its adapters again. What a request says of
// keep_alive holds until another says otherwise, or the model leaves. Any thread.
class Residents final : public Generator, public Embedder, public Reranker, public CountedNames {
 public:
  // invalid: two of one name. Loads nothing yet.
  static Result<std::unique_ptr<Residents>> create(std::vector<ResidentModel> models, ResidencyOptions options);
  // Fails what waits (unavailable).
  ~Residents() override;

  // Waits until the model is in memory. Errors as its load().
  Status preload(const std::string& model);
  // Serves one more, or this one in place of that of its name, whose adapters it gets. It takes requests once it is in
  // memory and has answered a short one (`check`, on the caller's thread; nothing: none); until then, and where it
  // cannot, all stays as it was. Requests on the old one end there, then it goes. Waits for all but that.
  Status put(ResidentModel model, const std::function<Status(const Resident&)>& check = {});
  // One more that is loaded when it is asked for. invalid: its name is taken.
  Status add(ResidentModel model);
  // It is listed no more, takes requests by its name for another second, of those who knew of it, and goes with the
  // last of them. not_found.
  Status remove(const std::string& model);

  // It leaves with the last request that uses it, and comes back when it is asked for, also by one that comes while it
  // leaves. not_found.
  Status unload(const std::string& model);
  // Models that nobody uses leave; they come back when they are asked for.
  void unload_idle();
  // The names of those in memory now.
  std::vector<std::string> loaded() const;

  // An empty model name means the first; ADAPTER or MODEL:ADAPTER a model's adapter.
  std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) override;
  std::vector<ModelCard> models() const override;
  std::optional<std::uint64_t> names_version() const override;
  Result<Tokenized> tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const Chat& chat) const override;
  void when_ready(const std::string& model, std::function<void(Result<const Generator*>)> then) const override;
  std::shared_ptr<const CachedPrefixes> cached_prefixes(const std::string& model) const override;
  // Of those in memory: sums; kv_used is the fullest; healthy if all are. What waits for a model counts as waiting.
  Load load() const override;
  // Brings the model. invalid: also a name that another of the models serves.
  void load_adapter(AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;

  // An empty model name means the first that does what is asked. unsupported: the model does not, or none does.
  void embed(EmbedRequest request, Embedder::Done done) override;
  void rerank(RerankRequest request, Reranker::Done done) override;

 private:
  class State;
  explicit Residents(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;  // tickets may outlive us
};

}  // namespace ashlar::engine
