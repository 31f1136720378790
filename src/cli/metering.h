// Limits and accounts of a server: every request is admitted by the limits, settled to
// what it used, and leaves one row of usage in this machine's state.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/generator.h"
#include "store/database.h"

namespace ashlar::cli {

struct MeteringOptions {
  std::string limits = "none";
  std::string counters;
  std::string budget_webhook;
  void fields(auto&& field) {
    field("limits", limits,
          "What anybody may use: a file (YAML) of limits, budgets and prices, or the profile `field` (1,000 tokens a "
          "minute and 50,000 a day for each user, 10 requests at once for each model, 1,000 requests an hour for each "
          "team); none: no limits.");
    field("counters", counters,
          "redis://HOST:PORT where several servers count together; left out: each counts for itself.");
    field("budget_webhook", budget_webhook,
          "URL that is told (POST, JSON) when a budget reaches a share that its rule names.");
  }
};

class Metering {
 public:
  using Admit = std::function<std::optional<engine::Generator::Refusal>(const engine::Request&)>;

  // `database` and `inner` outlive it; database: null where no state is kept, and then no rows are. Budgets go on where
  // the rows of usage say they stand. not_found, invalid: the file of limits, or the address of the counters.
  // `admit`: whether a request may begin at all now; none: each may.
  static Result<std::unique_ptr<Metering>> open(const MeteringOptions& options, store::Database* database,
                                                engine::Generator& inner, Admit admit = {});
  virtual ~Metering() = default;
  virtual engine::Generator& generator() = 0;
};

// Whether `limits` is a profile or a file without faults. not_found, invalid.
Status check_limits(const std::string& limits);

}  // namespace ashlar::cli
