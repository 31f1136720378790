// Limits and accounts of a server: every request is admitted by the limits, settled to
// what it used, and leaves one row of usage in this machine's state.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "cli/kept_budgets.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/events/event_log.h"
#include "gateway/limits/rules.h"
#include "net/http.h"
#include "store/database.h"

namespace ashlar::cli {

struct MeteringOptions {
  std::string limits = "none";
  std::string counters;
  std::string counters_ca, counters_cert, counters_key;
  std::string budget_webhook;
  void fields(auto&& field) {
    field("limits", limits,
          "What anybody may use: a file (YAML) of limits, budgets and prices, or the profile `field` (1,000 tokens a "
          "minute and 50,000 a day for each user, 10 requests at once for each model, 1,000 requests an hour for each "
          "team); none: no limits.");
    field("counters", counters,
          "redis://HOST:PORT, or rediss:// under TLS, where several servers count together; left out: each counts for "
          "itself.");
    field("counters_ca", counters_ca, "Who signed the certificate of rediss:// (PEM); left out: the system's authorities.");
    field("counters_cert", counters_cert, "Certificate that rediss:// is shown (PEM), with --counters-key.");
    field("counters_key", counters_key, "Its private key (PEM).");
    field("budget_webhook", budget_webhook,
          "URL that is told (POST, JSON) when a budget reaches a share that its rule names.");
  }
};

// Where rows of usage go, and the folder of the journal of requests whose rows are yet to come.
struct MeteringState {
  store::Database* database = nullptr;  // null: no state is kept, and then no rows are
  std::string folder;
};

// Who answers.
struct MeteredParts {
  engine::Generator& generator;
  engine::Embedder& embedder;
  engine::Reranker* reranker = nullptr;  // may be null
  // Whether a request for text may begin at all now; none: each may.
  std::function<std::optional<engine::Generator::Refusal>(const engine::Request&)> admit = {};
  // MeteredOptions::instead; none: nothing is.
  std::function<std::vector<std::string>(const std::string&)> instead = {};
};

class Metering {
 public:
  // The database, what is within and `events`, which may be null, outlive it. What servers that died left open is
  // accounted for first; budgets go on where the rows of usage say they stand. `events` hears of budgets and of
  // counters that cannot be reached. not_found, invalid: the file of limits, or the address of the counters.
  static Result<std::unique_ptr<Metering>> open(const MeteringOptions& options, const MeteringState& state,
                                                const MeteredParts& inner, gateway::EventLog* events = nullptr);
  virtual ~Metering() = default;
  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;
  virtual engine::Reranker* reranker() = 0;  // null: there is none within
  // Headers that tell where `who` stands with his rates, whatever model he asks for; none: they are not limited, or not
  // known now. Any thread; may wait for the counters where they are far away.
  virtual net::Headers rates(const gateway::Subject& who) = 0;
  // What an operator should know, a sentence each; none: all is well. Any thread.
  virtual std::vector<std::string> troubles() const = 0;

  // Another file of limits and prices, for requests that come; those that run are settled as they were reserved, what
  // is spent stays spent, and the budgets of the database stand beside it as before. invalid: then nothing has changed.
  virtual Status apply(gateway::LimitsConfig config) = 0;
  virtual KeptBudgets& budgets() = 0;
  // KeptBudgets::standings() by the counters that are used.
  virtual Result<Json> standings() = 0;
};

// Of a profile or a file. not_found; invalid: every fault, a line each.
Result<gateway::LimitsConfig> read_limits_of(const std::string& limits);

}  // namespace ashlar::cli
