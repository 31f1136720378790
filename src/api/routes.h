// Every path that is served, on one screen.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/errors.h"
#include "api/keeper.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/identity/identity.h"
#include "net/http.h"

namespace ashlar::api {

using gateway::Scope;

class AdminTable;

enum class Phase { loading, ready, draining };

// What all requests share. Any thread.
struct Shared {
  std::atomic<engine::Generator*> generator = nullptr;  // null while loading; outlives every exchange once set
  std::atomic<engine::Embedder*> embedder = nullptr;    // the same; null also where no model embeds
  std::atomic<engine::Reranker*> reranker = nullptr;    // or ranks
  std::atomic<Phase> phase = Phase::loading;
  std::shared_ptr<Keeper> keeper;
  std::string adapter_folder;                          // where adapters that clients load lie; "": none was named
  std::atomic<AdminTable*> admin = nullptr;            // null while loading
  const gateway::Identity* identity = nullptr;         // null: keys of the command line, at most
  std::function<std::vector<std::string>()> troubles;  // may be null; set before the generator is
  // How good somebody found the answer of that name, 0 to 1; whether it counts. May be null, as the one above.
  std::function<Result<bool>(const std::string& answer, double score, const std::string& tenant,
                             const engine::Sender& who)>
      feedback;
  // The headers of an answer that tell where somebody stands with his limits (x-ratelimit-...). May be null, too.
  std::function<net::Headers(const gateway::Principal& who, const std::string& tenant)> rates;
};

// One request on its way through the room.
struct Call {
  std::shared_ptr<net::Exchange> exchange;
  Shared& shared;
  std::string tenant;  // "" without keys
  gateway::Who who;    // null for open routes
  std::string rest;    // what the route's "*" stands for
  std::string request_id;
  bool id_is_given = false;  // by the client

  const net::HttpRequest& request() const { return exchange->request(); }
  // The generator, or the 503 of a server that is loading or draining.
  Outcome<engine::Generator*> generator() const;
  void respond_json(std::string body) const;

  // What is asked for, as far as it is known; `model` once it has been read.
  gateway::Action action(Scope scope, const engine::ModelCard* model = nullptr) const;
  // Whether who asks may use this model at all, and by the rules now. forbidden: says why.
  Outcome<void> check_model(const engine::ModelCard& model) const;
  // The same for a list: what may not be used is left out.
  bool may_use(const engine::ModelCard& model) const;
};

// Answers, or starts to and lets the Keeper finish. A fault is answered by the caller.
using Handle = Outcome<void> (*)(Call&);

struct Route {
  std::string_view method;
  std::string_view path;  // "*" at the end: anything that is not empty
  Scope scope;
  Handle handle;
};

std::span<const Route> routes();

// A match of path and method; null if there is none, and then `allow` lists the
// methods that the path does have ("GET, HEAD"), "" if it has none. HEAD is
// answered wherever GET is.
const Route* find_route(std::string_view method, std::string_view path, std::string& rest, std::string& allow);

// The handlers, each in the file of its family.
Outcome<void> chat_completions(Call&);
Outcome<void> completions(Call&);
Outcome<void> embeddings(Call&);
Outcome<void> rerank(Call&);
Outcome<void> list_models(Call&);
Outcome<void> show_model(Call&);
Outcome<void> load_adapter(Call&);
Outcome<void> unload_adapter(Call&);
Outcome<void> show_prefixes(Call&);
Outcome<void> tokenize(Call&);
Outcome<void> detokenize(Call&);
Outcome<void> apply_template(Call&);
Outcome<void> feedback(Call&);
Outcome<void> health(Call&);
Outcome<void> version(Call&);
Outcome<void> status(Call&);
Outcome<void> show_metrics(Call&);
Outcome<void> page(Call&);

}  // namespace ashlar::api
