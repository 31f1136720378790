#include "cli/answerers.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/log.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"
#include "gateway/routing/hints.h"
#include "gateway/upstreams/directory.h"
#include "gateway/upstreams/upstreams.h"

namespace ashlar::cli {
namespace {

using gateway::Directory;

gateway::RouterOptions router_options(const RoutingOptions& routing, gateway::Steering& steering) {
  gateway::RouterOptions options;
  options.cache.most_bytes = routing.response_cache.count;
  options.cache.ttl = std::chrono::duration_cast<std::chrono::seconds>(routing.response_cache_ttl);
  options.steering = &steering;
  options.hints = gateway::hints_of;
  options.on_event = [](const gateway::RouteEvent& event) {
    log::info("route_" + event.what, {{"deployment", event.deployment}, {"why", event.why}});
  };
  options.on_done = [](const gateway::RouteTrace& trace) { log::debug("routed", {{"trace", trace.json().dump()}}); };
  return options;
}

class AnswerersImpl final : public Answerers {
 public:
  Status open(const std::vector<std::string>& models, const HostOptions& options, GatewayPlan plan,
              store::Database* database, gateway::EventLog* events) {
    std::vector<Directory::Place> places;
    if (!models.empty()) {
      host_ = TRY(Host::open(models, options));
      places.push_back({.generator = &host_->generator(), .embedder = &host_->embedder()});
    }
    upstreams_ = TRY(gateway::Upstreams::open(std::move(plan.upstreams)));
    for (gateway::Upstream* upstream : upstreams_->upstreams())
      places.push_back({.name = upstream->name(), .generator = upstream, .embedder = upstream});
    models_ = std::make_unique<Directory>(std::move(places));
    shadows_ = std::make_unique<gateway::Shadows>(gateway::ShadowOptions{.models = models_.get()});
    rollouts_ = TRY(gateway::Rollouts::open({.events = events, .database = database, .shadows = shadows_.get()}));
    if (plan.routes.groups.empty()) return {};
    return open_routes(plan.routing, std::move(plan.routes));
  }

  engine::Generator& generator() override {
    if (front_) return *front_;
    return host_ && upstreams_->upstreams().empty() ? host_->generator() : *models_;
  }
  engine::Embedder& embedder() override {
    return host_ && upstreams_->upstreams().empty() ? host_->embedder() : *models_;
  }
  engine::Reranker* reranker() override { return host_ ? &host_->reranker() : nullptr; }
  void unload_idle() override {
    if (host_) host_->unload_idle();
  }
  gateway::Rollouts& rollouts() override { return *rollouts_; }
  gateway::Shadows& shadows() override { return *shadows_; }

 private:
  Status open_routes(const RoutingOptions& routing, gateway::RouteTable table) {
    const auto cards = models_->models();
    const std::shared_ptr<engine::Generator> all(std::shared_ptr<void>(), models_.get());  // not owned
    for (gateway::Deployment& each : table.deployments) {
      each.generator = all;
      if (std::ranges::find(cards, each.model, &engine::ModelCard::id) == cards.end())
        log::warn("route_without_model",
                  {{"route", each.group}, {"model", each.model}, {"why", "nobody serves it now"}});
    }
    router_ = TRY(gateway::Router::create(router_options(routing, *rollouts_), std::move(table)));
    front_ = std::make_unique<Directory>(std::vector<Directory::Place>{
        {.generator = router_.get()}, {.generator = models_.get(), .embedder = models_.get()}});
    return {};
  }

  // Each outlives those after it.
  std::unique_ptr<Host> host_;
  std::unique_ptr<gateway::Upstreams> upstreams_;
  std::unique_ptr<Directory> models_;  // all of them
  std::unique_ptr<gateway::Shadows> shadows_;
  std::unique_ptr<gateway::Rollouts> rollouts_;
  std::unique_ptr<gateway::Router> router_;
  std::unique_ptr<Directory> front_;  // routes before models; null: no routes
};

}  // namespace

Result<std::unique_ptr<Answerers>> Answerers::open(const std::vector<std::string>& models, const HostOptions& options,
                                                   GatewayPlan plan, store::Database* database,
                                                   gateway::EventLog* events) {
  auto all = std::make_unique<AnswerersImpl>();
  TRY(all->open(models, options, std::move(plan), database, events));
  return all;
}

}  // namespace ashlar::cli
