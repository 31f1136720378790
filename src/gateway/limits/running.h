// The requests that run: what a limit that comes while they do must count.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "gateway/limits/prices.h"
#include "gateway/limits/rules.h"
#include "gateway/limits/usage_record.h"

namespace ashlar::gateway {

// One of them.
struct Running {
  // A reservation beside its own, of a limit that came later: also_id().
  struct Also {
    std::string id, key;  // of the limit's counter
    Measure measure = Measure::money;
  };

  // As it was admitted.
  std::string id;
  Subject subject;
  std::string model;
  std::int64_t begun_utc_ms = 0;
  std::int64_t reserved = 0;  // nano-dollars
  std::optional<Price> price;
  std::vector<Measure> measures;  // of each charge
  std::vector<std::string> keys;  // of the budgets and seats among them
  bool seat = false;

  std::mutex mutex;
  // GUARDED_BY(mutex), all that follows.
  bool over = false;
  std::optional<TokenUse> use;  // once it is over; nothing: it was released
  std::vector<Also> also;
  std::uint32_t also_made = 0;
  std::vector<std::pair<Rule, Applied>> watched;  // budgets with alerts
  std::weak_ptr<OpenUsage> open;

  std::int64_t cost(const TokenUse& used) const { return price ? cost_of(*price, used) : 0; }
};

// To be looked at once it is settled: the configuration may be gone then.
inline std::pair<Rule, Applied> watched(const Applied& applied) {
  std::pair<Rule, Applied> out(*applied.rule, applied);
  out.second.rule = nullptr;
  return out;
}

// All of them, each from its admission until its record is on its way to the ledger. Any thread.
class RunningRequests : public std::enable_shared_from_this<RunningRequests> {
 public:
  using Pass = std::shared_ptr<const void>;  // who holds it keeps the request here

  Pass enter(std::shared_ptr<Running> request);
  // From keep() to forget(): those who leave are here nevertheless.
  void keep();
  void forget();
  std::vector<std::shared_ptr<Running>> all() const;

 private:
  void leave(const std::shared_ptr<Running>& request);

  mutable std::mutex mutex_;
  std::unordered_set<std::shared_ptr<Running>> here_;  // GUARDED_BY(mutex_), as is the rest
  std::vector<std::shared_ptr<Running>> left_;
  bool keeps_ = false;
};

}  // namespace ashlar::gateway
