// One Generator over many: every request is sent to the deployment that suits it best, and to the next one when that
// fails before it said anything.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/counted_names.h"
#include "engine/generator.h"
#include "gateway/routing/demand.h"
#include "gateway/routing/deployment.h"
#include "gateway/routing/fleet.h"
#include "gateway/routing/response_cache.h"
#include "gateway/routing/steering.h"
#include "gateway/routing/trace.h"
#include "gateway/routing/waiting_room.h"

namespace ashlar::gateway {

struct RouterOptions {
  int max_attempts = 3;  // of one request that reach a deployment
  // Attempts after the first, over all requests: at most this share of the first ones, beyond a small reserve. So an
  // outage costs the others no more than that.
  double retry_share = 0.2;
  int retry_reserve = 10;
  std::chrono::milliseconds first_token{0};     // an attempt that says nothing for so long has failed; 0: never
  std::chrono::milliseconds between_tokens{0};  // and a started answer that stops for so long; 0: never
  std::chrono::milliseconds poll{250};          // how often signals are read and ejections end
  std::size_t ring_characters = 100;            // of the first user message
  FleetOptions fleet;
  SheddingOptions shedding;
  ResponseCacheOptions cache;
  DemandOptions demand;

  std::function<TimePoint()> now = Clock::now;
  bool own_thread = true;  // else somebody calls turn(): tests, which turn the clock
  PermitHook permit;
  Steering* steering = nullptr;  // outlives it; null: versions on trial get nothing
  // What is known of a request that comes through start(request, sink): its tags, and what a detector finds in it.
  std::function<RouteHints(const engine::Request&)> hints;
  // Instead of what the generator's load() says.
  std::function<std::optional<Signals>(const Deployment&)> signals;
  // Called on any thread, and may not call the router.
  std::function<void(const RouteEvent&)> on_event;
  std::function<void(const RouteTrace&)> on_done;
};

// All that requests are routed by; replaced as a whole.
struct RouteTable {
  std::vector<Group> groups;
  std::map<std::string, std::string> aliases;  // a name to a group
  std::vector<Deployment> deployments;
  bool operator==(const RouteTable&) const = default;
};

// What Router::set_table() calls invalid, but for deployments without generator.
Status check_table(const RouteTable& table);

// A request's ticket that can tell its way.
class RouteTicket : public engine::Ticket {
 public:
  virtual RouteTrace trace() const = 0;
};

// Any thread may call. Started is held back until the answer's first token: so an attempt that fails before it can be
// made good by another deployment, and after it never is: then its Failed goes out. A request that waits for a place
// has its ticket already; what goes wrong then comes as Failed. Events come on the deployments' own threads, or on the
// router's: what the cache had, and what follows a failure.
class Router final : public engine::Generator, public engine::CountedNames {
 public:
  // invalid: the table, see set_table().
  static Result<std::unique_ptr<Router>> create(RouterOptions options, RouteTable table);
  // Requests under way get Failed (unavailable). Tickets may outlive it.
  ~Router() override;

  // Requests under way stay where they are. invalid: two of one name, a group, alias, tier or fallback that leads
  // nowhere, a deployment without generator, a number out of range; then nothing changed.
  Status set_table(RouteTable table);
  RouteTable table() const;
  // The groups that a group falls back to for this cause, itself or by an alias; none where there is no such group.
  std::vector<std::string> fallbacks(const std::string& name, Cause cause) const;
  Status add(Deployment deployment);
  // not_found. The deployment gets no more requests; its generator dies with the last of those that it has.
  Status remove(const std::string& deployment);
  Status force(const std::string& deployment, Breaker::Mode mode);

  std::expected<std::unique_ptr<RouteTicket>, Refusal> route(engine::Request request, RouteHints hints,
                                                             engine::Sink& sink);
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override;

  // Groups and aliases, as their first deployment describes them.
  std::vector<engine::ModelCard> models() const override;
  std::optional<engine::ModelCard> card(const std::string& model) const override;
  std::optional<std::uint64_t> names_version() const override;  // if all its generators count
  Result<engine::Tokenized> tokenize(const std::string& model, const engine::Prompt& prompt,
                                     bool parse_special) const override;
  Result<std::string> detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const override;
  Result<std::string> render(const std::string& model, const engine::Chat& chat) const override;
  // Of its first deployment, whom the three before ask, too.
  void when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const override;
  void load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) override;
  Status unload_adapter(const std::string& name) override;
  Load load() const override;

  // Each deployment's breaker, load and speed, for an operator.
  Json state() const;
  ResponseCache::Counts cache_counts() const;

  // What is due: retries, timeouts, those who wait, signals. Without a thread of its own, call it when time has
  // passed; it returns when nothing is left to do now. The time when something will be.
  TimePoint turn();

 private:
  class Core;
  friend class Flight;
  explicit Router(std::shared_ptr<Core> core);
  std::shared_ptr<Core> core_;
};

}  // namespace ashlar::gateway
