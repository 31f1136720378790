// How one configuration of limits takes the place of another while requests run.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <thread>
#include <unordered_set>

#include "gateway/limits/limits.h"
#include "gateway/limits/limits_worker.h"
#include "store/meters.h"

namespace ashlar::gateway {
namespace {

bool of_running(const Rule& rule) { return rule.measure == Measure::money || rule.measure == Measure::seats; }

// They have the same counters. Another capacity makes no other rule.
bool counts_the_same(const Rule& a, const Rule& b) {
  return a.scope == b.scope && a.who == b.who && a.model == b.model && a.id == b.id && a.kind == b.kind &&
         (!a.id.empty() || a.name == b.name) && a.period == b.period && a.calendar == b.calendar;
}

// Budgets and seats that were not counted before.
LimitsConfig fresh_of(const LimitsConfig* before, const LimitsConfig& after) {
  LimitsConfig out;
  if (before == nullptr) return out;
  for (const Rule& rule : after.rules)
    if (of_running(rule) &&
        std::ranges::none_of(before->rules, [&](const Rule& old) { return counts_the_same(old, rule); }))
      out.rules.push_back(rule);
  return out;
}

}  // namespace

// The order, so that each request counts once: from now on nobody who runs is forgotten; what the ledger has of those
// who are over goes into the counters; those who run are counted beside; then nobody is let in, while the few who came
// meanwhile are counted too; then the new rules hold. Whoever was admitted by the old ones and not yet known here asks
// again (Limits::enter).
class Limits::Changeover {
 public:
  Changeover(Limits& limits, std::shared_ptr<const LimitsConfig> next) : limits_(limits), next_(std::move(next)) {
    limits_.running_->keep();
  }
  ~Changeover() {
    limits_.running_->forget();
    if (!done_)
      for (const auto& [request, also] : counted_) take_back(*request, also);
    const std::lock_guard lock(limits_.mutex_);
    limits_.changing_ = false;
    limits_.changed_.notify_all();
  }

  Status run(const LimitsConfig& fresh, const Ledger& ledger) {
    if (ledger) TRY(restore(fresh, ledger));
    TRY(count_all());
    {
      const std::lock_guard lock(limits_.mutex_);
      limits_.changing_ = true;
    }
    TRY(count_all());
    const std::lock_guard lock(limits_.mutex_);
    limits_.config_ = next_;
    done_ = true;
    return {};
  }

 private:
  Status restore(const LimitsConfig& fresh, const Ledger& ledger) {
    if (std::ranges::none_of(fresh.rules, [](const Rule& rule) { return rule.measure == Measure::money; })) return {};
    // Whoever begins later begins in a later millisecond: their rows are told apart by it.
    const std::int64_t kept_ms = limits_.options_.clock().utc_ms;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    auto spent = TRY(ledger(fresh, std::max(kept_ms + 1, limits_.options_.clock().utc_ms), [this] {
      std::vector<std::string> ids;
      for (const auto& request : limits_.running_->all()) ids.push_back(request->id);
      return ids;
    }));
    add_held(spent);
    return limits_.counters_.restore(spent);
  }

  // Of budgets that are counted already by some who run: what these hold of them.
  void add_held(std::vector<store::Spent>& spent) const {
    for (const auto& request : limits_.running_->all()) {
      const std::lock_guard lock(request->mutex);
      const std::int64_t amount = amount_of(*request, Measure::money);
      for (store::Spent& each : spent)
        if (std::ranges::find(request->keys, each.limit.key) != request->keys.end()) each.used += amount;
    }
  }

  // Under its lock.
  static std::int64_t amount_of(const Running& request, Measure measure) {
    if (measure == Measure::seats) return request.over ? 0 : 1;
    if (!request.over) return request.reserved;
    return request.use ? request.cost(*request.use) : 0;
  }

  Status count_all() {
    for (const auto& request : limits_.running_->all())
      if (seen_.insert(request.get()).second)
        for (const Applied& applied : rules_for(*next_, request->subject, request->model))
          if (of_running(*applied.rule)) TRY(count(request, applied));
    return {};
  }

  // What was reserved in a window counts in that window: of those before it nothing.
  bool within(const Rule& rule, const Running& request) const {
    if (rule.measure != Measure::money) return true;
    const auto number = [&](std::int64_t utc_ms) { return store::calendar_window(rule.calendar, utc_ms).number; };
    return number(request.begun_utc_ms) == number(limits_.options_.clock().utc_ms);
  }

  Status count(const std::shared_ptr<Running>& request, const Applied& applied) {
    const Rule& rule = *applied.rule;
    Running::Also also{.id = {}, .key = applied.limit.key, .measure = rule.measure};
    std::int64_t amount = 0;
    {
      const std::lock_guard lock(request->mutex);
      amount = amount_of(*request, rule.measure);
      if (amount == 0 || std::ranges::find(request->keys, also.key) != request->keys.end() || !within(rule, *request))
        return {};
      if (request->also_made == kMostAlso)
        return Error{Code::unavailable, "the limits change too often for requests that run: try again later"};
      also.id = also_id(request->id, request->also_made++);
      if (const auto open = request->open.lock()) open->also(request->also_made);
    }
    // Whether it fits or not: it runs.
    const store::Limit limit = [&] {
      store::Limit all = applied.limit;
      all.capacity = store::kMostAmount;
      return all;
    }();
    const store::Charge charges[] = {{limit, amount}};
    const auto verdict = TRY(limits_.counters_.reserve(also.id, charges));
    counted_.emplace_back(request, also);
    if (!verdict.admitted) return Error{Code::invalid, fmt::format("limit '{}': it cannot count so much", rule.name)};
    hold(*request, std::move(also), applied);
    return {};
  }

  void hold(Running& request, Running::Also also, const Applied& applied) {
    std::unique_lock lock(request.mutex);
    request.keys.push_back(also.key);
    if (request.over) {
      lock.unlock();
      return limits_.end(also, request, request.use ? &*request.use : nullptr);
    }
    if (also.measure == Measure::seats) limits_.worker_->renews(also.id, applied.rule->period);
    if (!applied.rule->alerts.empty()) request.watched.push_back(watched(applied));
    request.also.push_back(std::move(also));
  }

  void take_back(Running& request, const Running::Also& also) {
    {
      const std::lock_guard lock(request.mutex);
      std::erase(request.keys, also.key);
      std::erase_if(request.also, [&](const auto& each) { return each.id == also.id; });
      std::erase_if(request.watched, [&](const auto& each) { return each.second.limit.key == also.key; });
    }
    if (also.measure == Measure::seats) limits_.worker_->ended(also.id);
    limits_.counters_.release(also.id);
  }

  Limits& limits_;
  const std::shared_ptr<const LimitsConfig> next_;
  std::unordered_set<const Running*> seen_;
  std::vector<std::pair<std::shared_ptr<Running>, Running::Also>> counted_;
  bool done_ = false;
};

Status Limits::apply(LimitsConfig config, const Ledger& ledger) {
  for (const Rule& rule : config.rules) TRY(check_rule(rule));
  sort_rules(config);
  auto next = std::make_shared<const LimitsConfig>(std::move(config));
  const std::lock_guard one(applying_);
  const LimitsConfig fresh = fresh_of(config_.get(), *next);  // only here it is written to
  if (!fresh.rules.empty()) return Changeover(*this, std::move(next)).run(fresh, ledger);
  const std::lock_guard lock(mutex_);
  config_ = std::move(next);
  return {};
}

}  // namespace ashlar::gateway
