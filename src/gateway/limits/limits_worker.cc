#include "gateway/limits/limits_worker.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/threads.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostAlertsWaiting = 10'000;
constexpr std::chrono::milliseconds kGather{50};  // so that many settlements of one budget cost one look

}  // namespace

LimitsWorker::LimitsWorker(store::Counters& counters, std::function<void(const BudgetAlert&)> on_alert)
    : counters_(counters), on_alert_(std::move(on_alert)), thread_([this](std::stop_token stop) { work(stop); }) {}

void LimitsWorker::renews(const std::string& id, std::chrono::milliseconds lease) {
  const std::lock_guard lock(mutex_);
  const Seat seat{lease / 3, Clock::now() + lease / 3};
  seats_[id] = seat;
  if (seat.due >= soonest_) return;
  soonest_ = seat.due;
  wake_.notify_one();
}

void LimitsWorker::ended(const std::string& id) {
  const std::lock_guard lock(mutex_);
  seats_.erase(id);
}

void LimitsWorker::look_at(std::vector<std::pair<Rule, Applied>> budgets) {
  const std::lock_guard lock(mutex_);
  const bool first = budgets_.empty();
  for (auto& budget : budgets)
    if (budgets_.size() < kMostAlertsWaiting) budgets_.insert_or_assign(budget.second.limit.key, std::move(budget));
  if (!first) return;
  look_due_ = Clock::now() + kGather;
  wake_.notify_one();
}

void LimitsWorker::work(const std::stop_token& stop) {
  begin_thread("limits");
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const auto due = std::min(soonest_, look_due_);
    wake_.wait_until(lock, stop, due, [&] { return std::min(soonest_, look_due_) < due; });
    std::vector<std::string> renewed;
    if (Clock::now() >= soonest_) renewed = due_seats(Clock::now());
    std::map<std::string, std::pair<Rule, Applied>> budgets;
    if (Clock::now() >= look_due_) {
      budgets.swap(budgets_);
      look_due_ = Clock::time_point::max();
    }
    lock.unlock();
    for (const std::string& id : renewed) counters_.renew(id);
    for (const auto& [key, budget] : budgets) look(budget.first, budget.second);
    lock.lock();
  }
}

std::vector<std::string> LimitsWorker::due_seats(Clock::time_point now) {
  std::vector<std::string> renewed;
  soonest_ = now + std::chrono::hours(1);
  for (auto& [id, seat] : seats_) {
    if (seat.due <= now) {
      renewed.push_back(id);
      seat.due = now + seat.every;
    }
    soonest_ = std::min(soonest_, seat.due);
  }
  return renewed;
}

void LimitsWorker::look(const Rule& rule, const Applied& applied) {
  const auto standings = counters_.look({&applied.limit, 1});
  if (!standings || rule.capacity == 0) return;  // the next request that is settled asks again
  const std::int64_t used = applied.limit.capacity - standings->front().remaining;
  for (const int percent : rule.alerts) {
    if (static_cast<__int128>(used) * 100 < static_cast<__int128>(percent) * rule.capacity) continue;
    // A budget of one alert for each window, so that of many who see it one tells it.
    store::Limit once = applied.limit;
    once.key = fmt::format("alert:{}:{}", percent, applied.limit.key);
    once.capacity = 1;
    const store::Charge charges[] = {{once, 1}};
    const std::string id = store::new_reservation_id();
    const auto first = counters_.reserve(id, charges);
    if (!first || !first->admitted) continue;
    const std::int64_t one[] = {1};
    counters_.settle(id, one);
    log::warn("budget_alert", {{"limit", rule.name}, {"who", applied.who}, {"percent", percent}});
    on_alert_({.limit = rule.name,
               .who = applied.who,
               .percent = percent,
               .used = used,
               .capacity = rule.capacity,
               .soft = rule.soft});
  }
}

}  // namespace ashlar::gateway
