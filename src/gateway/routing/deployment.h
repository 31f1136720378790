// What the router is told: deployments, the groups that they stand in, and what a request says about its own way.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/generator.h"
#include "gateway/rollout/plan.h"
#include "gateway/routing/breaker.h"

namespace ashlar::gateway {

using engine::Clock;
using TimePoint = Clock::time_point;

// One thing that can answer: a model of our engine, a replica, an upstream's model.
struct Deployment {
  std::string name;   // unique in the router
  std::string group;  // the model group it answers for
  std::string model;  // what its generator calls the model; empty: as the request does
  std::shared_ptr<engine::Generator> generator;
  double weight = 1;  // of the weighted strategy, and of its share of the ring's load; 0: takes nothing but fallbacks
  std::int64_t input_nanos = 0, output_nanos = 0;  // nano-dollars for a token
  std::vector<std::string> data_classes;           // marked data that may come here, "sensitive"; unmarked always may
  int context = 0;                                 // tokens of prompt and answer; 0: not known
  int max_concurrent = 0;                          // requests at once; 0: no fixed bound
  bool adaptive = false;                           // as many requests at once as are found to make it faster
  std::chrono::milliseconds between_tokens{0};     // its route's target: fewer at once where it takes longer; 0: none
  std::string label;                               // "stable", "canary": in traces and metrics
  bool trial = false;  // its group's rollout gives it its requests, nobody else; set by the router
  BreakerOptions breaker;
  bool operator==(const Deployment&) const = default;
};

// How one of a group's deployments is chosen.
enum class Strategy {
  weighted,           // exact shares: smooth weighted round robin
  least_outstanding,  // fewest tokens still to be computed
  latency,            // least peak EWMA of the time to the first token, times the requests under way
  prefix_ring,        // consistent hashing with bounded loads, by the beginning of the first user message
  prefix_index,       // least tokens to compute: what is outstanding and what of the prompt is not cached there
  cheapest,           // least price of the request
};
std::string_view name(Strategy strategy);
std::optional<Strategy> strategy_of(std::string_view name);
std::vector<std::string> strategy_names();

// Why a deployment did not answer, and so which fallbacks are asked.
enum class Cause { error, context, budget, policy };
std::string_view name(Cause cause);

// Three groups that answer for one, by how hard the request looks (complexity.h).
struct Tiers {
  std::string low, middle, high;
  double middle_from = 0.3, high_from = 0.7;
  bool operator==(const Tiers&) const = default;
};

struct Group {
  std::string name;
  Strategy strategy = Strategy::least_outstanding;
  bool sticky = false;                                  // a session stays with its deployment
  std::map<Cause, std::vector<std::string>> fallbacks;  // groups, asked in this order
  std::optional<Tiers> tiers;                           // then it has no deployments of its own
  std::optional<RolloutPlan> rollout;                   // one of its deployments is on trial
  std::optional<ShadowPlan> shadow;                     // a model that answers too, and is not heard
  double tokens_per_second = 0;                         // of one deployment, for scaling; 0: measured
  // Within which a first token is to come: who would have to wait longer is turned away at once. 0: no such target.
  std::chrono::milliseconds first_token{0};
  bool operator==(const Group&) const = default;
};

// What a caller may say of an answer that may come from the cache.
struct CacheControl {
  bool no_cache = false;                        // ask the model, whatever is kept
  bool no_store = false;                        // keep nothing of this answer
  bool wanted = false;                          // cache this though it is drawn at random
  std::optional<std::chrono::seconds> max_age;  // older ones do not do
};

// What is known of a request beside its text.
struct RouteHints {
  std::string session;                    // stays with one deployment where the group is sticky
  std::vector<std::string> data_classes;  // only deployments that allow every one may see it, fallbacks too
  CacheControl cache;
  std::string adapter;                       // part of the prefix's key
  std::vector<std::uint64_t> prefix_blocks;  // keys of its beginnings (engine/prefixes.h); empty: made from its text
  int prompt_tokens = 0;                     // counted; 0: estimated
};

// Whether a deployment may answer this request now: budgets, rights, policies. Called on the thread that
// starts the attempt, without a lock.
struct Permit {
  std::optional<Cause> refused;  // budget or policy
  std::string why;
};
using PermitHook = std::function<Permit(const engine::Request&, const RouteHints&, const Deployment&)>;

// A state changed, and somebody may want to know why (the event log).
struct RouteEvent {
  TimePoint time;
  std::string what;  // "breaker_open", "breaker_half_open", "breaker_closed", "ejected", "returned", "degraded", ...
  std::string deployment;
  std::string why;
};

}  // namespace ashlar::gateway
