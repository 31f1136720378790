#include "cli/answerers.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "cli/watch.h"
#include "gateway/routing/hints.h"
#include "gateway/upstreams/directory.h"
#include "gateway/upstreams/upstreams.h"

namespace ashlar::cli {
namespace {

using gateway::Directory;

// A router's event as the event log has it.
gateway::OperatorEvent operator_event(const gateway::RouteEvent& event) {
  using gateway::Severity;
  struct Kind {
    std::string_view what, kind;
    Severity severity;
  };
  constexpr Kind kKinds[] = {{"breaker_open", "breaker.opened", Severity::warning},
                             {"breaker_half_open", "breaker.half_open", Severity::info},
                             {"breaker_closed", "breaker.closed", Severity::info},
                             {"ejected", "route.ejected", Severity::warning},
                             {"degraded", "route.degraded", Severity::error}};
  const auto found = std::ranges::find(kKinds, event.what, &Kind::what);
  const bool known = found != std::end(kKinds);
  return {.kind = known ? std::string(found->kind) : "route." + event.what,
          .subject = event.deployment,
          .severity = known ? found->severity : Severity::info,
          .message = event.why.empty() ? event.what : event.why};
}

gateway::RouterOptions router_options(gateway::EventLog* events) {
  gateway::RouterOptions options;
  options.hints = gateway::hints_of;
  if (events != nullptr)
    options.on_event = [events](const gateway::RouteEvent& event) { events->write(operator_event(event)); };
  options.on_done = [](const gateway::RouteTrace& trace) { log::debug("routed", {{"trace", trace.json().dump()}}); };
  return options;
}

class AnswerersImpl final : public Answerers {
 public:
  explicit AnswerersImpl(gateway::EventLog* events) : events_(events) {}

  Status open(const std::vector<std::string>& models, const HostOptions& options, GatewayPlan plan) {
    std::vector<Directory::Place> places;
    if (!models.empty()) {
      host_ = TRY(Host::open(models, options));
      places.push_back({.generator = &host_->generator(), .embedder = &host_->embedder()});
    }
    upstreams_ = TRY(gateway::Upstreams::open(std::move(plan.upstreams)));
    for (gateway::Upstream* upstream : upstreams_->upstreams())
      places.push_back({.name = upstream->name(), .generator = upstream, .embedder = upstream});
    models_ = std::make_unique<Directory>(std::move(places));
    if (host_ && events_ != nullptr) {
      known_ = host_->loaded();
      watch_.emplace(std::chrono::milliseconds(250), [this] { look(); });
    }
    if (plan.routes.groups.empty()) return {};
    return open_routes(std::move(plan.routes));
  }

  engine::Generator& generator() override {
    if (front_) return *front_;
    return host_ && upstreams_->upstreams().empty() ? host_->generator() : *models_;
  }
  engine::Embedder& embedder() override {
    return host_ && upstreams_->upstreams().empty() ? host_->embedder() : *models_;
  }
  engine::Reranker* reranker() override { return host_ ? &host_->reranker() : nullptr; }

  std::vector<std::string> loaded() const override { return host_ ? host_->loaded() : std::vector<std::string>(); }
  Json routes() const override { return router_ ? router_->state() : Json::array(); }
  Status force(const std::string& deployment, gateway::Breaker::Mode mode) override {
    if (!router_) return Error{Code::not_found, "this server has no routes"};
    return router_->force(deployment, mode);
  }
  Json upstreams() const override {
    const Json states = routes();
    const auto deployments = router_ ? router_->table().deployments : std::vector<gateway::Deployment>();
    Json out = Json::array();
    for (const gateway::Upstream* upstream : upstreams_->upstreams()) {
      const std::string trouble = upstream->trouble();
      Json models = Json::array(), breakers = Json::array();
      for (const engine::ModelCard& card : upstream->models()) {
        models.push_back(card.id);
        for (const gateway::Deployment& each : deployments)
          if (each.model == card.id || each.model == upstream->name() + "/" + card.id)
            for (const Json& state : states)
              if (state["name"] == each.name)
                breakers.push_back({{"deployment", each.name}, {"state", state["breaker"]}});
      }
      out.push_back({{"name", upstream->name()},
                     {"state", trouble.empty() ? "up" : "down"},
                     {"trouble", trouble},
                     {"models", std::move(models)},
                     {"running", upstream->load().running},
                     {"breakers", std::move(breakers)}});
    }
    return out;
  }

 private:
  Status open_routes(gateway::RouteTable table) {
    const auto cards = models_->models();
    const std::shared_ptr<engine::Generator> all(std::shared_ptr<void>(), models_.get());  // not owned
    for (gateway::Deployment& each : table.deployments) {
      each.generator = all;
      if (std::ranges::find(cards, each.model, &engine::ModelCard::id) == cards.end())
        log::warn("route_without_model", {{"route", each.group}, {"model", each.model}, {"why", "nobody serves it now"}});
    }
    router_ = TRY(gateway::Router::create(router_options(events_), std::move(table)));
    front_ = std::make_unique<Directory>(std::vector<Directory::Place>{
        {.generator = router_.get()}, {.generator = models_.get(), .embedder = models_.get()}});
    return {};
  }

  // Models that came into memory, or left it.
  void look() {
    std::vector<std::string> now = host_->loaded();
    const auto tell = [&](const std::vector<std::string>& these, const std::vector<std::string>& those,
                          const char* kind, const char* message) {
      for (const std::string& model : these)
        if (std::ranges::find(those, model) == those.end())
          events_->write({.kind = kind, .subject = model, .message = message});
    };
    tell(now, known_, "model.loaded", "the model came into memory");
    tell(known_, now, "model.unloaded", "the model left memory");
    known_ = std::move(now);
  }

  gateway::EventLog* const events_;
  std::vector<std::string> known_;  // the watch's thread only, once it runs

  // Each outlives those after it.
  std::unique_ptr<Host> host_;
  std::unique_ptr<gateway::Upstreams> upstreams_;
  std::unique_ptr<Directory> models_;  // all of them
  std::unique_ptr<gateway::Router> router_;
  std::unique_ptr<Directory> front_;  // routes before models; null: no routes
  std::optional<Watch> watch_;
};

}  // namespace

Result<std::unique_ptr<Answerers>> Answerers::open(const std::vector<std::string>& models, const HostOptions& options,
                                                   GatewayPlan plan, gateway::EventLog* events) {
  auto all = std::make_unique<AnswerersImpl>(events);
  TRY(all->open(models, options, std::move(plan)));
  return all;
}

}  // namespace ashlar::cli
