// Everything that answers a server's requests: models here, those of upstreams, and
// the routes over them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/host.h"
#include "cli/serve_options.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/events/event_log.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"
#include "store/database.h"

namespace ashlar::cli {

class Answerers {
 public:
  // As Host::open, Upstreams::open and Router::create say. A route may name a model that
  // nobody serves yet: its upstream may be down; the log says so. `database`, where rollouts are kept, and `events` may
  // be null, and outlive it.
  static Result<std::unique_ptr<Answerers>> open(const std::vector<std::string>& models, const HostOptions& options,
                                                 GatewayPlan plan, store::Database* database = nullptr,
                                                 gateway::EventLog* events = nullptr);
  virtual ~Answerers() = default;

  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;
  virtual engine::Reranker* reranker() = 0;  // null: no model here
  // Models of this process that nobody uses leave memory, until they are asked for.
  virtual void unload_idle() = 0;
  virtual gateway::Rollouts& rollouts() = 0;
  virtual gateway::Shadows& shadows() = 0;
};

}  // namespace ashlar::cli
