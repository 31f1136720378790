#include "gateway/routing/router.h"
#include "gateway/routing/hints.h"

#include <fmt/format.h>

#include <cmath>
#include <set>
#include <utility>

#include "base/json_full.h"
#include "gateway/routing/complexity.h"
#include "gateway/routing/core.h"
#include "gateway/routing/flight.h"

namespace ashlar::gateway {
namespace {

class Ticket final : public RouteTicket {
 public:
  Ticket(std::shared_ptr<Flight> flight, std::uint64_t listener, std::shared_ptr<const Flight::Joined> joined = nullptr)
      : flight_(std::move(flight)), listener_(listener), joined_(std::move(joined)) {}
  ~Ticket() override { flight_->leave(listener_); }
  RouteTrace trace() const override {
    RouteTrace trace = flight_->trace();
    return joined_ ? trace.joined_by(joined_->id) : trace;
  }

 private:
  std::shared_ptr<Flight> flight_;
  std::uint64_t listener_;
  const std::shared_ptr<const Flight::Joined> joined_;  // null: it joined nobody
};

Status check(const Deployment& deployment) {
  const auto wrong = [&](std::string_view what) -> Status {
    return Error{Code::invalid, fmt::format("deployment '{}': {}", deployment.name, what)};
  };
  if (deployment.name.empty()) return wrong("it has no name");
  if (!std::isfinite(deployment.weight) || deployment.weight < 0) return wrong("its weight is not a number from 0");
  if (deployment.input_nanos < 0 || deployment.output_nanos < 0) return wrong("a price is below 0");
  if (deployment.context < 0 || deployment.max_concurrent < 0) return wrong("a limit is below 0");
  const BreakerOptions& breaker = deployment.breaker;
  if (breaker.window < std::chrono::milliseconds{10}) return wrong("its breaker's window is below 10 ms");
  if (breaker.probes < 1 || breaker.probes_to_close < 1) return wrong("its breaker has no probes");
  return {};
}

Status check(const RouteTable& table, const Group& group, const RolloutPlan& rollout) {
  int others = 0, found = 0;
  for (const Deployment& each : table.deployments)
    if (each.group == group.name) ++(each.name == rollout.to ? found : others);
  if (found != 1)
    return Error{Code::invalid, fmt::format("the rollout of group '{}' is of '{}', which is none of its deployments",
                                            group.name, rollout.to)};
  if (others == 0)
    return Error{Code::invalid,
                 fmt::format("the rollout of group '{}' has no other deployment to go back to", group.name)};
  return {};
}

}  // namespace

Status check_table(const RouteTable& table) {
  std::map<std::string, const Group*> groups;
  for (const Group& group : table.groups) {
    if (group.name.empty()) return Error{Code::invalid, "a group has no name"};
    if (!groups.emplace(group.name, &group).second)
      return Error{Code::invalid, fmt::format("there are two groups '{}'", group.name)};
  }
  const auto leads = [&](std::string_view from, const std::string& to) -> Status {
    if (groups.contains(to)) return {};
    return Error{Code::invalid, fmt::format("{} leads to '{}', which is no group", from, to)};
  };
  for (const Group& group : table.groups) {
    if (group.rollout) TRY(check(table, group, *group.rollout));
    for (const auto& [cause, names] : group.fallbacks)
      for (const std::string& each : names) TRY(leads(fmt::format("a fallback of group '{}'", group.name), each));
    if (!group.tiers) continue;
    for (const std::string& each : {group.tiers->low, group.tiers->middle, group.tiers->high}) {
      TRY(leads(fmt::format("a tier of group '{}'", group.name), each));
      if (groups[each]->tiers)
        return Error{Code::invalid, fmt::format("a tier of group '{}' has tiers itself: '{}'", group.name, each)};
    }
    if (!(group.tiers->middle_from <= group.tiers->high_from))
      return Error{Code::invalid, fmt::format("the tiers of group '{}' are not in order", group.name)};
  }
  for (const auto& [alias, name] : table.aliases) TRY(leads(fmt::format("alias '{}'", alias), name));
  std::set<std::string> names;
  for (const Deployment& deployment : table.deployments) {
    TRY(check(deployment));
    TRY(leads(fmt::format("deployment '{}'", deployment.name), deployment.group));
    if (groups[deployment.group]->tiers)
      return Error{Code::invalid,
                   fmt::format("deployment '{}' is in group '{}', which has tiers", deployment.name, deployment.group)};
    if (!names.insert(deployment.name).second)
      return Error{Code::invalid, fmt::format("there are two deployments '{}'", deployment.name)};
  }
  return {};
}

namespace {

Status check(const RouteTable& table) {
  for (const Deployment& deployment : table.deployments)
    if (!deployment.generator)
      return Error{Code::invalid, fmt::format("deployment '{}': it has no generator", deployment.name)};
  return check_table(table);
}

Error no_model(const std::string& model) {
  return {Code::not_found, fmt::format("there is no model '{}' here", model)};
}

}  // namespace

Router::Router(std::shared_ptr<Core> core) : core_(std::move(core)) {}

Result<std::unique_ptr<Router>> Router::create(RouterOptions options, RouteTable table) {
  TRY(check(table));
  auto core = std::make_shared<Core>(std::move(options), std::move(table));
  core->begin();
  return std::unique_ptr<Router>(new Router(std::move(core)));
}

Router::~Router() { core_->end(); }

Status Router::set_table(RouteTable table) {
  return core_->change([&](RouteTable& current) -> Status {
    TRY(check(table));
    current = std::move(table);
    return {};
  });
}

RouteTable Router::table() const { return core_->table(); }

std::vector<std::string> Router::fallbacks(const std::string& name, Cause cause) const {
  std::set<std::string> only;
  const auto group = core_->resolve(name, only);
  if (!group || !only.empty()) return {};
  const auto found = (*group)->fallbacks.find(cause);
  return found == (*group)->fallbacks.end() ? std::vector<std::string>() : found->second;
}

Status Router::add(Deployment deployment) {
  return core_->change([&](RouteTable& table) -> Status {
    table.deployments.push_back(std::move(deployment));
    return check(table);
  });
}

Status Router::remove(const std::string& deployment) {
  return core_->change([&](RouteTable& table) -> Status {
    if (std::erase_if(table.deployments, [&](const Deployment& each) { return each.name == deployment; }) == 0)
      return Error{Code::not_found, fmt::format("there is no deployment '{}'", deployment)};
    return {};
  });
}

Status Router::force(const std::string& deployment, Breaker::Mode mode) {
  const auto live = core_->find(deployment);
  if (!live) return Error{Code::not_found, fmt::format("there is no deployment '{}'", deployment)};
  core_->with_fleet([&](Fleet& fleet) { fleet.force(*live, mode, core_->now()); });
  return {};
}

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> Router::start(engine::Request request,
                                                                                         engine::Sink& sink) {
  RouteHints hints;
  if (core_->options().hints) hints = core_->options().hints(request);
  return route(std::move(request), std::move(hints), sink);
}

std::expected<std::unique_ptr<RouteTicket>, engine::Generator::Refusal> Router::route(engine::Request request,
                                                                                      RouteHints hints,
                                                                                      engine::Sink& sink) {
  Flight::Plan plan;
  auto resolved = core_->resolve(request.model, plan.only);
  if (!resolved) return std::unexpected(Refusal{.error = std::move(resolved.error())});
  std::shared_ptr<const Group> group = std::move(*resolved);
  RouteTrace& trace = plan.trace;
  trace = {.id = request.id, .tenant = request.tenant, .model = request.model, .group = group->name};
  if (group->tiers) {
    const Tiers& tiers = *group->tiers;
    trace.complexity = complexity_of(request);
    const double score = trace.complexity->score;
    trace.tier = score < tiers.middle_from ? "low" : score < tiers.high_from ? "middle" : "high";
    auto tier = core_->group(score < tiers.middle_from ? tiers.low
                             : score < tiers.high_from ? tiers.middle
                                                       : tiers.high);
    if (!tier) return std::unexpected(Refusal{.error = no_model(request.model)});
    group = std::move(tier);
    trace.group = group->name;
  }
  plan.group = std::move(group);
  Steering* const steering = core_->options().steering;
  if (steering != nullptr) plan.split = steering->split(plan.group->name, request);
  const bool trial = plan.split && plan.split->chosen;
  const CacheControl control = hints.cache;
  if (core_->options().cache.most_bytes > 0 && repeatable(request, control)) {
    // Answers of a version on trial are for those alone who are sent to it.
    const std::string of =
        trial ? fmt::format("{}\n{}\n{}", plan.group->name, plan.split->canary, plan.split->version) : plan.group->name;
    plan.key = response_key(request, of, hints);
    plan.keep = !control.no_store;
    auto found = core_->look_up(plan.key, control, plan.group->name, trial);
    if (found.found.answer) {
      trace.cache = found.found.stale ? "stale" : "hit";
      explain(request, trace);
      if (core_->options().on_done) core_->options().on_done(trace);
      auto flight = std::make_shared<Flight>(core_, std::move(found.found.answer), std::move(trace));
      auto ticket = std::make_unique<Ticket>(flight, *flight->listen(sink));
      core_->post({.what = Core::Task::What::deliver, .flight = std::move(flight)});
      return ticket;
    }
    if (found.leader && found.leader->deadline() >= request.deadline && found.leader->priority() <= request.priority) {
      const auto joined = std::make_shared<const Flight::Joined>(
          Flight::Joined{.id = request.id, .notes = request.sender.explain ? request.notes : nullptr});
      if (const auto listener = found.leader->listen(sink, joined)) {
        core_->count_joined();
        core_->post({.what = Core::Task::What::deliver, .flight = found.leader});
        return std::make_unique<Ticket>(std::move(found.leader), *listener, joined);
      }
    }
    trace.cache = "miss";
  }
  if (steering != nullptr) plan.tap = steering->tap(plan.group->name, request);
  const std::string key = plan.key;
  auto flight = std::make_shared<Flight>(core_, std::move(request), std::move(hints), std::move(plan));
  auto ticket = std::make_unique<Ticket>(flight, *flight->listen(sink));  // before others can find it, and join
  core_->enter(flight);
  if (!key.empty()) core_->lead(key, flight);
  if (auto refusal = flight->advance()) {
    flight->turn_away(*refusal);
    return std::unexpected(std::move(*refusal));
  }
  return ticket;
}

}  // namespace ashlar::gateway
