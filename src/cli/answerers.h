// Everything that answers a server's requests: models here, those of upstreams, and
// the routes over them; others may take their place while requests run.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "cli/host.h"
#include "cli/serve_options.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/events/event_log.h"
#include "gateway/quarantine/quarantine.h"
#include "gateway/routing/breaker.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"
#include "store/database.h"

namespace ashlar::cli {

class Answerers {
 public:
  struct Options {
    HostOptions host;
    RepositoryOptions repository;
    RoutingOptions routing;
    gateway::EventLog* events = nullptr;  // outlives it, as the next does; null: none
    store::Database* database = nullptr;  // where rollouts are kept; null: nowhere
    // Under which models of this machine answer; outlives it. Null: whoever asks, whatever happened.
    gateway::Quarantine* quarantine = nullptr;
  };
  // As Host::open, open_upstreams() and Router::create say. A route may name a model that
  // nobody serves yet: its upstream may be down; the log says so.
  static Result<std::unique_ptr<Answerers>> open(const std::vector<std::string>& models, Options options,
                                                 GatewayPlan plan);
  virtual ~Answerers() = default;

  // These stand as long as it does. Any thread.
  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;
  virtual engine::Reranker& reranker() = 0;
  virtual gateway::Rollouts& rollouts() = 0;
  virtual gateway::Shadows& shadows() = 0;
  // Models of this process that nobody uses leave memory with the next turn(), until they are asked for.
  virtual void unload_idle() = 0;

  // For who administers. Any thread.
  virtual std::vector<std::string> loaded() const = 0;  // models of this machine in memory now
  virtual Json upstreams() const = 0;                   // [{"name", "state", "trouble", "models", "running", "breakers"}]
  virtual Json routes() const = 0;                      // Router::state()
  virtual Status unload(const std::string& model) = 0;  // Residents::unload()
  virtual Status force(const std::string& deployment, gateway::Breaker::Mode mode) = 0;
  // The routes that a route falls back to where a budget has no room. Any thread.
  virtual std::vector<std::string> within_budget(const std::string& route) const = 0;

  // The rest is for one thread at a time.

  // What is to be, checked and made as far as that changes nothing: upstreams are there and probed, models found fit.
  class Prepared {
   public:
    virtual ~Prepared() = default;
  };
  // Every fault, a line each.
  virtual Result<std::unique_ptr<Prepared>> prepare(const std::vector<std::string>& models, GatewayPlan plan) = 0;

  struct Changes {
    std::vector<std::string> made;     // "+upstream fast", "~route chat", "-model old"
    std::vector<std::string> refused;  // sentences: models that stay as they were
  };
  // Waits for models to load. Upstreams of which nothing has changed stay what they are; those that are gone, and
  // models, end with their last request.
  virtual Changes commit(std::unique_ptr<Prepared> prepared) = 0;

  // To be called once a second or so: ends what nobody uses any more, and follows the repository's folder.
  virtual void turn() = 0;

  // Upstreams that are down or have not answered yet, a sentence each. Any thread.
  virtual std::vector<std::string> troubles() const = 0;
};

}  // namespace ashlar::cli
