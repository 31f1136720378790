// The operations of the admin API that `ashlar serve` offers, and what they work on.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/admin.h"
#include "engine/generator.h"
#include "gateway/events/kept_events.h"
#include "gateway/identity/key_ring.h"
#include "gateway/identity/key_store.h"
#include "gateway/identity/team_store.h"
#include "gateway/limits/budget_store.h"
#include "gateway/rollout/rollouts.h"
#include "gateway/rollout/shadow.h"
#include "gateway/routing/breaker.h"
#include "store/database.h"

namespace ashlar::cli {

class Answerers;
class Metering;
class Reloader;
struct KeptKeys;

// All outlive the API. What is null, or empty, is not there: its operations are listed all the same, and answer that.
struct AdminParts {
  store::Database* database = nullptr;
  gateway::KeyStore* keys = nullptr;
  gateway::KeyRing* ring = nullptr;
  gateway::TeamStore* teams = nullptr;
  gateway::BudgetStore* budgets = nullptr;
  gateway::KeptEvents* events = nullptr;
  engine::Generator* generator = nullptr;

  // Every budget that counts now, as the counters have it: a list of what kBudget describes.
  std::function<Result<Json>()> standings;
  // Budgets that were changed hold from when it returns.
  std::function<void()> budgets_changed;
  std::function<std::vector<std::string>()> loaded;  // names of the models in memory
  std::function<Status(const std::string& model)> unload;
  std::function<Json()> upstreams, routes, status;   // as lists; an object
  std::function<Status(const std::string& deployment, gateway::Breaker::Mode)> force;
  Reloader* reloader = nullptr;
  gateway::Rollouts* rollouts = nullptr;
  const gateway::Shadows* shadows = nullptr;  // there, if the rollouts are
};

// Of a server: all that is given outlives the API.
AdminParts admin_parts(const KeptKeys& keys, gateway::KeptEvents& events, Answerers& answerers, Metering& metering);

std::vector<api::AdminOperation> key_operations(const AdminParts& parts);
std::vector<api::AdminOperation> team_operations(const AdminParts& parts);
std::vector<api::AdminOperation> budget_operations(const AdminParts& parts);
std::vector<api::AdminOperation> event_operations(const AdminParts& parts);  // and usage
std::vector<api::AdminOperation> serving_operations(const AdminParts& parts);

// All of these. What other parts of the program offer is added here, so that the document has it.
std::vector<api::AdminOperation> admin_operations(const AdminParts& parts);

}  // namespace ashlar::cli
