#include "cli/answerers.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/contains.h"
#include "base/json_full.h"
#include "base/log.h"
#include "cli/model_repository.h"
#include "cli/renamed.h"
#include "cli/watch.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"
#include "gateway/routing/hints.h"
#include "gateway/upstreams/directory.h"
#include "gateway/upstreams/door.h"
#include "gateway/upstreams/upstreams.h"

namespace ashlar::cli {
namespace {

using gateway::Directory;
using gateway::Door;
using gateway::KeptUpstream;
using gateway::Place;
using gateway::Places;
using gateway::RouteTable;

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

gateway::RouterOptions router_options(const RoutingOptions& routing, gateway::Steering& steering,
                                      gateway::EventLog* events) {
  gateway::RouterOptions options;
  options.cache.most_bytes = routing.response_cache.count;
  options.cache.ttl = std::chrono::duration_cast<std::chrono::seconds>(routing.response_cache_ttl);
  options.steering = &steering;
  options.hints = gateway::hints_of;
  if (events != nullptr)
    options.on_event = [events](const gateway::RouteEvent& event) { events->write(operator_event(event)); };
  // The level may change while the server runs.
  options.on_done = [](const gateway::RouteTrace& trace) {
    if (log::writes(log::Level::debug)) log::debug("routed", {{"trace", trace.json().dump()}});
  };
  return options;
}

// The models here that rank, if there are any by now, also by their other names.
class Rankers final : public engine::Reranker {
 public:
  void rerank(engine::RerankRequest request, Done done) override {
    engine::Reranker* inner = nullptr;
    {
      const std::lock_guard lock(mutex_);
      inner = inner_;
      if (const auto other = names_.find(request.model); other != names_.end()) request.model = other->second;
    }
    if (inner != nullptr) return inner->rerank(std::move(request), std::move(done));
    done(std::unexpected(engine::Generator::Refusal{.error = {Code::unsupported, "no model here ranks documents"}}));
  }
  void set(engine::Reranker& inner) {
    const std::lock_guard lock(mutex_);
    inner_ = &inner;
  }
  void set(std::map<std::string, std::string> names) {
    const std::lock_guard lock(mutex_);
    names_ = std::move(names);
  }

 private:
  std::mutex mutex_;
  engine::Reranker* inner_ = nullptr;  // GUARDED_BY(mutex_), as the next
  std::map<std::string, std::string> names_;
};

struct PreparedChange final : Answerers::Prepared {
  std::vector<HostedModel> models;
  std::vector<KeptUpstream> upstreams;
  RouteTable routes;
};

// "+upstream fast" and the like: what `after` has and `before` has not, what differs, what is gone.
template <class T>
void compare(std::string_view kind, const std::map<std::string, T>& before, const std::map<std::string, T>& after,
             std::vector<std::string>& out) {
  for (const auto& [name, value] : after) {
    const auto old = before.find(name);
    if (old == before.end())
      out.push_back(fmt::format("+{} {}", kind, name));
    else if (!(old->second == value))
      out.push_back(fmt::format("~{} {}", kind, name));
  }
  for (const auto& [name, value] : before)
    if (!after.contains(name)) out.push_back(fmt::format("-{} {}", kind, name));
}

// A route with all that the table says of it.
std::map<std::string, RouteTable> by_route(const RouteTable& table) {
  std::map<std::string, RouteTable> out;
  for (const gateway::Group& group : table.groups) out[group.name].groups.push_back(group);
  for (const auto& [alias, group] : table.aliases) out[group].aliases.emplace(alias, group);
  for (const gateway::Deployment& each : table.deployments) out[each.group].deployments.push_back(each);
  return out;
}

std::map<std::string, const gateway::Upstream*> by_name(const std::vector<KeptUpstream>& upstreams) {
  std::map<std::string, const gateway::Upstream*> out;
  for (const KeptUpstream& each : upstreams) out[each.options.name] = each.upstream.get();
  return out;
}

class AnswerersImpl final : public Answerers {
 public:
  explicit AnswerersImpl(Options options) : options_(std::move(options)), repository_(options_.repository) {}

  Status open(const std::vector<std::string>& models, GatewayPlan plan) {
    configured_ = TRY(find_all_hosted(models, options_.host));
    if (!models.empty()) TRY(open_host(models));
    upstreams_ = TRY(gateway::open_upstreams(std::move(plan.upstreams)));
    shadows_ = std::make_unique<gateway::Shadows>(gateway::ShadowOptions{.models = models_.get()});
    rollouts_ = TRY(
        gateway::Rollouts::open({.events = options_.events, .database = options_.database, .shadows = shadows_.get()}));
    TRY(gateway::check_table(plan.routes));
    TRY(repository_.check());
    set_places();
    set_routes(std::move(plan.routes));
    follow_repository(/*first=*/true);
    known_ = loaded();
    if (options_.events != nullptr) watch_.emplace(std::chrono::milliseconds(250), [this] { look(); });
    return {};
  }

  engine::Generator& generator() override { return *front_; }
  engine::Embedder& embedder() override { return *asked_for_; }
  engine::Reranker& reranker() override { return rankers_; }
  gateway::Rollouts& rollouts() override { return *rollouts_; }
  gateway::Shadows& shadows() override { return *shadows_; }
  void unload_idle() override { unload_ = true; }

  std::vector<std::string> loaded() const override {
    Host* const host = seen().host;
    return host != nullptr ? host->loaded() : std::vector<std::string>();
  }
  Json routes() const override {
    const gateway::Router* const router = seen().router;
    return router != nullptr ? router->state() : Json::array();
  }
  Status unload(const std::string& model) override {
    Host* const host = seen().host;
    if (host == nullptr) return Error{Code::not_found, "this server has no models of its own"};
    return host->unload(model);
  }
  Status force(const std::string& deployment, gateway::Breaker::Mode mode) override {
    gateway::Router* const router = seen().router;
    if (router == nullptr) return Error{Code::not_found, "this server has no routes"};
    return router->force(deployment, mode);
  }
  std::vector<std::string> within_budget(const std::string& route) const override {
    const gateway::Router* const router = seen().router;
    return router != nullptr ? router->fallbacks(route, gateway::Cause::budget) : std::vector<std::string>();
  }
  std::vector<std::string> troubles() const override {
    std::vector<std::string> out;
    for (const KeptUpstream& each : seen().upstreams)
      if (const std::string why = each.upstream->trouble(); !why.empty())
        out.push_back(fmt::format("the upstream '{}' {}: {}", each.upstream->name(),
                                  each.upstream->standing() == gateway::Standing::down ? "is down" : "has not answered yet",
                                  why));
    return out;
  }
  Json upstreams() const override {
    const Seen now = seen();
    const Json states = routes();
    const auto deployments =
        now.router != nullptr ? now.router->table().deployments : std::vector<gateway::Deployment>();
    Json out = Json::array();
    for (const KeptUpstream& each : now.upstreams) {
      const gateway::Upstream& upstream = *each.upstream;
      Json models = Json::array(), breakers = Json::array();
      for (const engine::ModelCard& card : upstream.models()) {
        models.push_back(card.id);
        for (const gateway::Deployment& deployment : deployments)
          if (deployment.model == card.id || deployment.model == upstream.name() + "/" + card.id)
            for (const Json& state : states)
              if (state["name"] == deployment.name)
                breakers.push_back({{"deployment", deployment.name}, {"state", state["breaker"]}});
      }
      out.push_back({{"name", upstream.name()},
                     {"state", gateway::name(upstream.standing())},
                     {"trouble", upstream.trouble()},
                     {"models", std::move(models)},
                     {"running", upstream.load().running},
                     {"breakers", std::move(breakers)}});
    }
    return out;
  }

  Result<std::unique_ptr<Prepared>> prepare(const std::vector<std::string>& models, GatewayPlan plan) override {
    auto out = std::make_unique<PreparedChange>();
    std::string faults;
    const auto note = [&](const Status& done) {
      if (!done) faults += (faults.empty() ? "" : "\n") + done.error().message;
    };
    if (auto found = find_all_hosted(models, options_.host); !found)
      note(std::unexpected(found.error()));
    else
      out->models = std::move(*found);
    if (host_ == nullptr && !out->models.empty()) note(open_host({}));
    for (const HostedModel& model : out->models)
      if (!contains(configured_, model)) note(host_->check(model));
    note(gateway::check_table(plan.routes));
    if (faults.empty()) {
      auto upstreams = gateway::open_upstreams(std::move(plan.upstreams), upstreams_);
      if (!upstreams) return std::unexpected(upstreams.error());
      out->upstreams = std::move(*upstreams);
    }
    if (!faults.empty()) return Error{Code::invalid, faults};
    out->routes = std::move(plan.routes);
    return out;
  }

  Changes commit(std::unique_ptr<Prepared> prepared) override {
    auto& next = dynamic_cast<PreparedChange&>(*prepared);
    Changes changes;
    configured_ = std::move(next.models);
    repository_.forgive();
    bring(wanted(), changes);
    compare("upstream", by_name(upstreams_), by_name(next.upstreams), changes.made);
    for (const KeptUpstream& old : upstreams_)
      if (std::ranges::none_of(next.upstreams, [&](const auto& each) { return each.upstream == old.upstream; }))
        retired_.push_back(old.upstream);
    upstreams_ = std::move(next.upstreams);
    set_places();
    compare("route", by_route(routes_), by_route(next.routes), changes.made);
    set_routes(std::move(next.routes));
    keep_only(wanted(), changes);
    return changes;
  }

  void turn() override {
    // Whoever holds one more got it from the places, where it is no longer: nobody can come anew.
    std::erase_if(retired_, [](const auto& each) { return each.use_count() == 1; });
    if (unload_.exchange(false) && host_ != nullptr) host_->unload_idle();
    follow_repository(/*first=*/false);
  }

 private:
  Status open_host(const std::vector<std::string>& models) {
    host_ = TRY(Host::open(models, options_.host));
    own_ = {&host_->generator(), &host_->embedder(), &host_->reranker()};
    if (options_.quarantine != nullptr) {
      guarded_generator_ = gateway::guarded(host_->generator(), *options_.quarantine);
      guarded_embedder_ = gateway::guarded(host_->embedder(), *options_.quarantine);
      guarded_reranker_ = gateway::guarded(host_->reranker(), *options_.quarantine);
      own_ = {guarded_generator_.get(), guarded_embedder_.get(), guarded_reranker_.get()};
    }
    rankers_.set(*own_.reranker);
    show();
    return {};
  }

  void tell(std::string kind, const std::string& model, gateway::Severity severity, std::string message) {
    if (options_.events == nullptr) return;
    options_.events->write(
        {.kind = std::move(kind), .subject = model, .severity = severity, .message = std::move(message), .actor = {}});
  }

  // Those that the configuration does not name.
  std::vector<HostedModel> of_repository() const {
    std::vector<HostedModel> out;
    for (const HostedModel& each : repository_.chosen())
      if (!contains(configured_, each.name, &HostedModel::name)) out.push_back(each);
    return out;
  }
  std::vector<HostedModel> wanted() const {
    std::vector<HostedModel> out = configured_;
    for (HostedModel& each : of_repository()) out.push_back(std::move(each));
    return out;
  }

  void bring(const std::vector<HostedModel>& models, Changes& changes) {
    if (models.empty()) return;
    if (host_ == nullptr)
      if (const Status opened = open_host({}); !opened) {
        changes.refused.push_back(opened.error().message);
        return;
      }
    const BroughtModels brought = host_->bring(models);
    for (const std::string& name : brought.added) {
      changes.made.push_back("+model " + name);
      tell("model.added", name, gateway::Severity::info, fmt::format("The model '{}' is served now.", name));
    }
    for (const std::string& name : brought.replaced) {
      changes.made.push_back("~model " + name);
      tell("model.replaced", name, gateway::Severity::info,
           fmt::format("The model '{}' is another now; requests under way end on the one before.", name));
    }
    for (const auto& [name, error] : brought.refused) {
      log::error("model_refused", {{"model", name}, {"why", error.message}});
      std::string why = fmt::format("the model '{}' stays as it was: {}", name, error.message);
      tell("model.refused", name, gateway::Severity::error, why);
      changes.refused.push_back(std::move(why));
      repository_.refuse(name);
    }
  }

  void keep_only(const std::vector<HostedModel>& models, Changes& changes) {
    if (host_ == nullptr) return;
    for (const std::string& name : host_->keep_only(models)) {
      changes.made.push_back("-model " + name);
      tell("model.removed", name, gateway::Severity::info, fmt::format("The model '{}' is served no more.", name));
    }
  }

  // Where a version that is chosen turns out to be unfit, the next lower one is; until all are fit, all stays as it is.
  void follow_repository(bool first) {
    Changes changes;
    bool followed = false;
    while (repository_.turn(engine::Clock::now(), first)) {
      bring(of_repository(), changes);
      followed = true;
    }
    if (!followed) return;
    set_places();
    for (const auto& door : doors_) door.second->set(models_->places());
    keep_only(wanted(), changes);
    log::info("repository_followed", {{"changes", fmt::format("{}", fmt::join(changes.made, ", "))}});
  }

  void set_places() {
    std::vector<Place> places;
    if (host_ != nullptr) {
      places.push_back({.name = {},
                        .generator = gateway::borrowed(own_.generator),
                        .embedder = gateway::borrowed(own_.embedder)});
      if (!repository_.aliases().empty()) {
        const auto renamed = std::make_shared<Renamed>(*own_.generator, *own_.embedder, repository_.aliases());
        places.push_back({.name = {}, .generator = renamed, .embedder = renamed});
      }
      rankers_.set(repository_.aliases());
    }
    for (const KeptUpstream& each : upstreams_)
      places.push_back({.name = each.options.name,
                        .generator = each.upstream,
                        .embedder = each.upstream,
                        .data_classes = each.options.data_classes});
    const auto all = std::make_shared<const Places>(std::move(places));
    models_->set(all);
    asked_for_->set(all);
  }

  // The deployments of `table` are behind doors to the models: the doors of before, where the same generator stands
  // behind them still, so that the router goes on with what it knows of them. Those of deployments that are gone lead
  // where they led.
  void set_routes(RouteTable table) {
    routes_ = table;
    const auto places = models_->places();
    const auto cards = places->models();
    std::map<std::string, std::shared_ptr<Door>> doors;
    for (gateway::Deployment& each : table.deployments) {
      const std::string key = each.name + '\n' + each.model;
      auto door = std::make_shared<Door>(places, each.model);
      const auto old = doors_.find(key);
      if (old != doors_.end() && old->second->behind() == door->behind()) {
        door = old->second;
        door->set(places);
      }
      const auto found = places->find(each.model);
      if (found.place == nullptr || door->models().empty())
        log::warn("route_without_model",
                  {{"route", each.group}, {"model", each.model}, {"why", "nobody serves it now"}});
      // An engine of this process has a queue of its own, that knows more.
      if (found.place != nullptr && found.place->name.empty()) each.adaptive = false;
      each.generator = door;
      doors.emplace(key, std::move(door));
    }
    const bool routed = !table.groups.empty();
    if (router_ != nullptr) {
      if (!routed) front_->set(unrouted_);
      const Status done = router_->set_table(std::move(table));
      CHECK(done, "the table was checked");
    } else if (routed) {
      auto made =
          gateway::Router::create(router_options(options_.routing, *rollouts_, options_.events), std::move(table));
      CHECK(made, "the table was checked");
      router_ = std::move(*made);
      routed_ = std::make_shared<const Places>(std::vector<Place>{
          {.name = {}, .generator = gateway::borrowed<engine::Generator>(router_.get()), .embedder = nullptr},
          {.name = {},
           .generator = gateway::borrowed<engine::Generator>(asked_for_.get()),
           .embedder = gateway::borrowed<engine::Embedder>(asked_for_.get())}});
    }
    if (routed) front_->set(routed_);
    doors_ = std::move(doors);
    show();
  }

  // What those who administer look at, on their own threads.
  struct Seen {
    Host* host = nullptr;
    gateway::Router* router = nullptr;
    std::vector<KeptUpstream> upstreams;
  };
  void show() {
    Seen now{host_.get(), router_.get(), upstreams_};
    const std::lock_guard lock(seen_mutex_);
    std::swap(seen_, now);  // the old one dies outside of the lock
  }
  Seen seen() const {
    const std::lock_guard lock(seen_mutex_);
    return seen_;
  }

  // Models that came into memory, or left it.
  void look() {
    std::vector<std::string> now = loaded();
    const auto compare_with = [&](const std::vector<std::string>& these, const std::vector<std::string>& those,
                                  const char* kind, const char* message) {
      for (const std::string& model : these)
        if (!contains(those, model)) tell(kind, model, gateway::Severity::info, message);
    };
    compare_with(now, known_, "model.loaded", "the model came into memory");
    compare_with(known_, now, "model.unloaded", "the model left memory");
    known_ = std::move(now);
  }

  std::atomic<bool> unload_ = false;  // asked for by any thread

  // Each outlives those after it.
  const Options options_;
  Rankers rankers_;
  std::unique_ptr<Host> host_;  // null until there is a model here
  // Over its own; null: there is no quarantine.
  std::unique_ptr<engine::Generator> guarded_generator_;
  std::unique_ptr<engine::Embedder> guarded_embedder_;
  std::unique_ptr<engine::Reranker> guarded_reranker_;
  // The models of this process, under the quarantine if there is one.
  struct {
    engine::Generator* generator = nullptr;
    engine::Embedder* embedder = nullptr;
    engine::Reranker* reranker = nullptr;
  } own_;
  ModelRepository repository_;
  std::vector<HostedModel> configured_;
  std::vector<KeptUpstream> upstreams_;
  std::vector<std::shared_ptr<gateway::Upstream>> retired_;  // of before, with requests under way
  const std::unique_ptr<Directory> models_ = std::make_unique<Directory>(std::vector<Place>{});  // all of them
  // The same by the names that clients use. Routes, shadows and judges look at the classes of marked data themselves.
  const std::unique_ptr<Directory> asked_for_ =
      std::make_unique<Directory>(std::vector<Place>{}, Directory::Marked::where_listed);
  RouteTable routes_;                                                                            // without doors
  std::map<std::string, std::shared_ptr<Door>> doors_;  // by deployment and model
  std::unique_ptr<gateway::Shadows> shadows_;
  std::unique_ptr<gateway::Rollouts> rollouts_;
  std::unique_ptr<gateway::Router> router_;  // null until there is a route
  std::shared_ptr<const Places> routed_;     // routes before models
  const std::shared_ptr<const Places> unrouted_ = std::make_shared<const Places>(
      std::vector<Place>{{.name = {},
                          .generator = gateway::borrowed<engine::Generator>(asked_for_.get()),
                          .embedder = gateway::borrowed<engine::Embedder>(asked_for_.get())}});
  const std::unique_ptr<Directory> front_ = std::make_unique<Directory>(unrouted_);
  mutable std::mutex seen_mutex_;
  Seen seen_;                       // GUARDED_BY(seen_mutex_)
  std::vector<std::string> known_;  // the watch's thread only, once it runs
  std::optional<Watch> watch_;
};

}  // namespace

Result<std::unique_ptr<Answerers>> Answerers::open(const std::vector<std::string>& models, Options options,
                                                   GatewayPlan plan) {
  auto all = std::make_unique<AnswerersImpl>(std::move(options));
  TRY(all->open(models, std::move(plan)));
  return all;
}

}  // namespace ashlar::cli
