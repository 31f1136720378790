// Budgets that are made while a server runs, as they are kept: beside those of the file of limits, for one key, user,
// team or tenant each.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/limits/rules.h"
#include "store/database.h"

namespace ashlar::gateway {

struct KeptBudget {
  std::string id;                       // "budget-...": it stays, and so does what was counted
  LimitScope scope = LimitScope::team;  // key, user, team or tenant
  std::string who;                      // of a key its id
  std::string name;                     // for people and refusals; one of each name for one subject
  std::int64_t capacity = 0;            // nano-dollars in a window; 0: nothing that costs money
  store::Calendar window = store::Calendar::month;
  std::vector<int> alerts;      // percentages of it: to 100, of a soft one to 1000
  bool soft = false;            // somebody is told, nobody is refused; without alerts it has one at 100
  std::int64_t created_at = 0;  // seconds of Unix
};

// Of one subject, so that the charges of a request stay within store::kMostCharges.
inline constexpr int kMostBudgetsOfOne = 4;

Rule rule_of(const KeptBudget& budget);
std::string_view name(store::Calendar window);  // "total", "hour", "day", "month"
// invalid: another name.
Result<store::Calendar> parse_window(std::string_view name);

// Any thread. Errors as Database has them, and those named below.
class BudgetStore {
 public:
  // Makes the tables where they are missing. `database` outlives this.
  static Result<std::unique_ptr<BudgetStore>> open(store::Database& database);

  // id and created_at are set here. invalid: as check_rule(), another scope, a name that the subject's budgets have
  // already, or more than kMostBudgetsOfOne for it.
  Result<KeptBudget> create(KeptBudget budget);
  // Reads it, lets `edit` change its name, capacity, alerts and softness, and writes it. not_found; invalid: as
  // create().
  Result<KeptBudget> change(std::string_view which, const std::function<Status(KeptBudget&)>& edit);
  Result<KeptBudget> remove(std::string_view which);  // what it was

  // `which`: an id, or the name if it is the only one of that name.
  Result<KeptBudget> find(std::string_view which);
  Result<std::vector<KeptBudget>> list();  // in the order of their making

  // Another number after every change, whichever process made it.
  Result<std::int64_t> generation();

 private:
  explicit BudgetStore(store::Database& database) : database_(database) {}
  store::Database& database_;
};

}  // namespace ashlar::gateway
