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

namespace ashlar::cli {

class Answerers {
 public:
  // As Host::open, Upstreams::open and Router::create say. A route may name a model that
  // nobody serves yet: its upstream may be down; the log says so.
  static Result<std::unique_ptr<Answerers>> open(const std::vector<std::string>& models, const HostOptions& options,
                                                 GatewayPlan plan);
  virtual ~Answerers() = default;

  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;
  virtual engine::Reranker* reranker() = 0;  // null: no model here
};

}  // namespace ashlar::cli
