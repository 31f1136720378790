// The limits of a server: those of its file, and beside them the budgets that its database keeps, as they are now.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "cli/watch.h"
#include "gateway/limits/budget_store.h"
#include "gateway/limits/rules.h"
#include "store/counters.h"
#include "store/database.h"

namespace ashlar::cli {

// Any thread.
class KeptBudgets {
 public:
  // Called with all limits whenever they are others, one call at a time. What it refuses is tried again.
  using Apply = std::function<Status(const gateway::LimitsConfig& all)>;

  // `database` may be null, and outlives this. As BudgetStore::open() and list().
  static Result<std::unique_ptr<KeptBudgets>> open(store::Database* database, gateway::LimitsConfig file);

  // From now on `apply` hears of changes, of any process within a quarter of a second.
  void begin(Apply apply);
  // `apply` is called no more.
  void end() { watch_.reset(); }
  // Another file. What `apply` refuses stays as it was.
  Status set_file(gateway::LimitsConfig file);
  // Reads the database now rather than soon, for who has just changed it.
  Status reload();

  gateway::LimitsConfig all() const;
  gateway::BudgetStore* store() { return store_.get(); }  // null: no database
  // Every budget of `all`, with who spent how much of it: [{"id", "name", ..., "spent_by": [...]}].
  Result<Json> standings(store::Counters& counters) const;

 private:
  explicit KeptBudgets(store::Database* database) : database_(database) {}
  Status read();
  void look();
  gateway::LimitsConfig joined(const gateway::LimitsConfig& file) const;
  gateway::LimitsConfig budgets() const;

  store::Database* const database_;
  std::unique_ptr<gateway::BudgetStore> store_;  // null: no database
  Apply apply_;

  std::mutex changing_;  // taken before mutex_; held while `apply_` runs
  mutable std::mutex mutex_;
  gateway::LimitsConfig file_;  // GUARDED_BY(mutex_), as are the next three
  std::vector<gateway::KeptBudget> kept_;
  std::int64_t generation_ = -1;
  bool troubled_ = false;
  bool warned_ = false;           // the watch's thread only
  std::unique_ptr<Watch> watch_;  // last: it ends before what it uses
};

}  // namespace ashlar::cli
