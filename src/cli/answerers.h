// Everything that answers a server's requests: models here, those of upstreams, and
// the routes over them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "cli/host.h"
#include "cli/serve_options.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/events/event_log.h"
#include "gateway/routing/breaker.h"

namespace ashlar::cli {

class Answerers {
 public:
  // As Host::open, Upstreams::open and Router::create say. A route may name a model that
  // nobody serves yet: its upstream may be down; the log says so. `events`, which may be null and outlives this, hears
  // what becomes of routes and models.
  static Result<std::unique_ptr<Answerers>> open(const std::vector<std::string>& models, const HostOptions& options,
                                                 GatewayPlan plan, gateway::EventLog* events = nullptr);
  virtual ~Answerers() = default;

  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;
  virtual engine::Reranker* reranker() = 0;  // null: no model here

  // For who administers. Any thread.
  virtual std::vector<std::string> loaded() const = 0;  // models of this machine in memory now
  virtual Json upstreams() const = 0;                   // [{"name", "state", "trouble", "models", "running", "breakers"}]
  virtual Json routes() const = 0;                      // Router::state()
  virtual Status force(const std::string& deployment, gateway::Breaker::Mode mode) = 0;
};

}  // namespace ashlar::cli
