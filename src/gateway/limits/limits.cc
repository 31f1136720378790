#include "gateway/limits/limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <map>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "base/threads.h"

namespace ashlar::gateway {
namespace {

using store::Charge;
using store::LimitKind;
using store::Standing;
using store::Verdict;

constexpr std::size_t kMostAlertsWaiting = 10'000;
constexpr std::chrono::milliseconds kGather{50};

// The nearer to its end, the more it matters to whoever asks.
void keep_nearest(std::optional<Standing>& kept, const Standing& standing) {
  const auto share = [](const Standing& s) {
    return static_cast<double>(s.remaining) / static_cast<double>(std::max<std::int64_t>(1, s.limit));
  };
  if (!kept || share(standing) < share(*kept)) kept = standing;
}

std::string dollars(std::int64_t nano) {
  return fmt::format("${}.{:06}", nano / 1'000'000'000, nano % 1'000'000'000 / 1000);
}

// "6m0s" as the field writes it.
std::string go_duration(std::chrono::milliseconds time) {
  const std::int64_t ms = time.count();
  if (ms < 1000) return ms == 0 ? "0s" : fmt::format("{}ms", ms);
  const std::int64_t s = (ms + 999) / 1000;
  if (s >= 3600) return fmt::format("{}h{}m{}s", s / 3600, s / 60 % 60, s % 60);
  if (s >= 60) return fmt::format("{}m{}s", s / 60, s % 60);
  return fmt::format("{}s", s);
}

std::string_view window_name(store::Calendar calendar) {
  static constexpr std::string_view kNames[] = {"in all", "this hour", "today", "this month"};
  return kNames[static_cast<int>(calendar)];
}

}  // namespace

std::vector<std::pair<std::string, std::string>> rate_headers(const RateNumbers& numbers) {
  std::vector<std::pair<std::string, std::string>> headers;
  headers.reserve(6);
  const auto add = [&](const std::string& what, const std::optional<Standing>& standing) {
    if (!standing) return;
    headers.emplace_back("x-ratelimit-limit-" + what, fmt::format_int(standing->limit).str());
    headers.emplace_back("x-ratelimit-remaining-" + what, fmt::format_int(standing->remaining).str());
    headers.emplace_back("x-ratelimit-reset-" + what, go_duration(standing->reset));
  };
  add("requests", numbers.requests);
  add("tokens", numbers.tokens);
  return headers;
}

std::string_view reason(LimitRefusal::Kind kind) {
  switch (kind) {
    case LimitRefusal::Kind::rate:
      return "rate_limit_exceeded";
    case LimitRefusal::Kind::quota:
      return "insufficient_quota";
    case LimitRefusal::Kind::too_large:
    case LimitRefusal::Kind::unavailable:
      break;
  }
  return "";
}

// A request on its way through admit().
struct Limits::Asked {
  const Ask& ask;
  std::vector<Applied> rules;
  std::optional<Price> price;
  std::int64_t output = 0;
  std::vector<Charge> charges;

  std::int64_t tokens() const { return ask.prompt_tokens + ask.answers * output; }
  std::int64_t cost() const { return price ? most_cost_of(*price, ask.prompt_tokens, ask.answers * output) : 0; }

  void charge() {
    charges.clear();
    for (const Applied& applied : rules) {
      std::int64_t amount = 1;
      if (applied.rule->measure == Measure::tokens) amount = tokens();
      if (applied.rule->measure == Measure::money) amount = cost();
      charges.push_back({applied.limit, amount});
    }
  }

  RateNumbers numbers(const std::vector<Standing>& standings) const {
    RateNumbers numbers;
    for (std::size_t i = 0; i < std::min(rules.size(), standings.size()); ++i) {
      if (rules[i].rule->measure == Measure::tokens) keep_nearest(numbers.tokens, standings[i]);
      if (rules[i].rule->measure == Measure::requests) keep_nearest(numbers.requests, standings[i]);
    }
    return numbers;
  }
};

// What goes on beside requests: leases are renewed while their requests run, and budgets that were settled are looked
// at for alerts.
class Limits::Worker {
 public:
  Worker(store::Counters& counters, std::function<void(const BudgetAlert&)> on_alert)
      : counters_(counters), on_alert_(std::move(on_alert)), thread_([this](std::stop_token stop) { work(stop); }) {}

  void renews(const std::string& id, std::chrono::milliseconds lease) {
    const std::lock_guard lock(mutex_);
    const Seat seat{lease / 3, Clock::now() + lease / 3};
    seats_[id] = seat;
    if (seat.due >= soonest_) return;
    soonest_ = seat.due;
    wake_.notify_one();
  }
  void ended(const std::string& id) {
    const std::lock_guard lock(mutex_);
    seats_.erase(id);
  }
  // A moment later, so that many settlements of one budget cost one look.
  void look_at(std::vector<std::pair<Rule, Applied>> budgets) {
    const std::lock_guard lock(mutex_);
    const bool first = budgets_.empty();
    for (auto& budget : budgets)
      if (budgets_.size() < kMostAlertsWaiting) budgets_.insert_or_assign(budget.second.limit.key, std::move(budget));
    if (!first) return;
    look_due_ = Clock::now() + kGather;
    wake_.notify_one();
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Seat {
    std::chrono::milliseconds every;
    Clock::time_point due;
  };

  void work(const std::stop_token& stop) {
    name_this_thread("limits");
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

  // Under the lock.
  std::vector<std::string> due_seats(Clock::time_point now) {
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

  void look(const Rule& rule, const Applied& applied) {
    const auto standings = counters_.look({&applied.limit, 1});
    if (!standings || applied.limit.capacity == 0) return;  // the next request that is settled asks again
    const std::int64_t used = applied.limit.capacity - standings->front().remaining;
    for (const int percent : rule.alerts) {
      if (static_cast<__int128>(used) * 100 < static_cast<__int128>(percent) * applied.limit.capacity) continue;
      // A budget of one alert for each window, so that of many who see it one tells it.
      store::Limit once = applied.limit;
      once.key = fmt::format("alert:{}:{}", percent, applied.limit.key);
      once.capacity = 1;
      const Charge charges[] = {{once, 1}};
      const std::string id = store::new_reservation_id();
      const auto first = counters_.reserve(id, charges);
      if (!first || !first->admitted) continue;
      const std::int64_t one[] = {1};
      counters_.settle(id, one);
      log::warn("budget_alert", {{"limit", rule.name}, {"who", applied.who}, {"percent", percent}});
      on_alert_({.limit = rule.name, .who = applied.who, .percent = percent, .used = used, .capacity = rule.capacity});
    }
  }

  store::Counters& counters_;
  const std::function<void(const BudgetAlert&)> on_alert_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::unordered_map<std::string, Seat> seats_;                       // GUARDED_BY(mutex_)
  Clock::time_point soonest_ = Clock::now() + std::chrono::hours(1);  // GUARDED_BY(mutex_); no seat is due before
  std::map<std::string, std::pair<Rule, Applied>> budgets_;           // GUARDED_BY(mutex_); by their keys
  Clock::time_point look_due_ = Clock::time_point::max();             // GUARDED_BY(mutex_); at them
  std::jthread thread_;                                               // last: it ends before what it uses
};

// --- an admission

Limits::Admission::Admission(Admission&& other) noexcept
    : limits_(std::exchange(other.limits_, nullptr)),
      id_(std::move(other.id_)),
      max_tokens_(other.max_tokens_),
      reserved_(other.reserved_),
      numbers_(other.numbers_),
      price_(other.price_),
      measures_(std::move(other.measures_)),
      watched_(std::move(other.watched_)),
      seat_(other.seat_) {}

void Limits::Admission::release() {
  Limits* limits = std::exchange(limits_, nullptr);
  if (limits == nullptr) return;
  if (seat_) limits->worker_->ended(id_);
  if (!measures_.empty()) limits->counters_.release(id_);
}

void Limits::Admission::settle(const TokenUse& use) {
  Limits* limits = std::exchange(limits_, nullptr);
  if (limits == nullptr) return;
  if (seat_) limits->worker_->ended(id_);
  std::vector<std::int64_t> amounts;
  for (const Measure measure : measures_)
    amounts.push_back(measure == Measure::tokens ? use.total() : measure == Measure::money ? cost(use) : 1);
  if (!amounts.empty()) limits->counters_.settle(id_, amounts);
  if (!watched_.empty()) limits->worker_->look_at(std::move(watched_));
}

// --- limits

Limits::Limits(store::Counters& counters, Options options)
    : counters_(counters),
      options_(std::move(options)),
      worker_(std::make_unique<Worker>(counters, options_.on_alert)) {}

Limits::~Limits() = default;

Result<std::unique_ptr<Limits>> Limits::create(LimitsConfig config, store::Counters& counters, Options options) {
  if (!options.on_alert) options.on_alert = [](const BudgetAlert&) {};
  std::unique_ptr<Limits> limits(new Limits(counters, std::move(options)));
  TRY(limits->apply(std::move(config)));
  return limits;
}

Status Limits::apply(LimitsConfig config) {
  for (const Rule& rule : config.rules) TRY(check_rule(rule));
  sort_rules(config);
  auto fresh = std::make_shared<const LimitsConfig>(std::move(config));
  const std::lock_guard lock(mutex_);
  config_ = std::move(fresh);
  return {};
}

std::shared_ptr<const LimitsConfig> Limits::config() const {
  const std::lock_guard lock(mutex_);
  return config_;
}

bool Limits::idle() const {
  const auto now = config();
  return now->rules.empty() && now->caps.empty();
}

std::expected<Limits::Admission, LimitRefusal> Limits::admit(const Ask& ask) {
  using Kind = LimitRefusal::Kind;
  const auto config = this->config();
  Asked asked{.ask = ask, .rules = rules_for(*config, ask.subject, ask.model), .price = {}, .charges = {}};
  // So that no sum of them overflows; no context is as long.
  constexpr std::int64_t kMostTokens = 1'000'000'000;
  if (ask.prompt_tokens < 0 || ask.prompt_tokens > kMostTokens || ask.max_tokens > kMostTokens || ask.answers < 1 ||
      ask.answers > 10'000)
    return std::unexpected(LimitRefusal{
        .kind = Kind::too_large, .error = {Code::invalid, "the request asks for more tokens than can be counted"}});
  const bool stated = ask.max_tokens >= 0;
  asked.output = std::clamp<std::int64_t>(stated ? ask.max_tokens : ask.room, 0, kMostTokens);
  if (const auto cap = output_cap(*config, ask.subject, ask.model)) asked.output = std::min(asked.output, *cap);
  if (const Price* price = config->prices.find(ask.model, options_.clock().utc_ms)) asked.price = *price;
  const bool money =
      std::ranges::any_of(asked.rules, [](const Applied& a) { return a.rule->measure == Measure::money; });
  if (money && !asked.price && config->refuse_unpriced)
    return std::unexpected(LimitRefusal{
        .kind = Kind::quota,
        .error = {Code::exhausted, fmt::format("the model '{}' has no price, and a budget applies", ask.model)}});
  if (asked.rules.size() > store::kMostCharges)
    return std::unexpected(LimitRefusal{
        .kind = Kind::unavailable, .error = {Code::unavailable, "more limits apply to this request than can be held"}});

  Admission admission;
  admission.limits_ = this;
  admission.id_ = store::new_reservation_id();
  for (int turn = 0;; ++turn) {
    asked.charge();
    Result<Verdict> verdict = Verdict{.admitted = true};
    if (!asked.charges.empty()) verdict = counters_.reserve(admission.id_, asked.charges);
    if (!verdict) {
      admission.limits_ = nullptr;
      return std::unexpected(
          LimitRefusal{.kind = Kind::unavailable,
                       .error = {Code::unavailable, "the limits cannot be checked now: " + verdict.error().message},
                       .retry_after = std::chrono::seconds(1)});
    }
    if (verdict->admitted) {
      admission.numbers_ = asked.numbers(verdict->standings);
      break;
    }
    const std::int64_t output = stated || turn == 3 ? asked.output : shorter(asked, *verdict);
    if (output >= asked.output) {
      admission.limits_ = nullptr;  // nothing is held
      return refuse(asked, *verdict);
    }
    asked.output = output;
  }
  admission.max_tokens_ = asked.output;
  admission.reserved_ = asked.cost();
  admission.price_ = asked.price;
  for (const Applied& applied : asked.rules) {
    admission.measures_.push_back(applied.rule->measure);
    if (applied.rule->measure == Measure::seats && !std::exchange(admission.seat_, true))
      worker_->renews(admission.id_, applied.rule->period);
    if (applied.rule->alerts.empty()) continue;
    admission.watched_.emplace_back(*applied.rule, applied);
    admission.watched_.back().second.rule = nullptr;  // the configuration may be gone when they are looked at
  }
  return admission;
}

std::int64_t Limits::shorter(const Asked& asked, const Verdict& verdict) const {
  std::int64_t output = asked.output;
  for (std::size_t i = 0; i < asked.charges.size(); ++i) {
    const Charge& charge = asked.charges[i];
    const std::int64_t left = verdict.standings[i].remaining;
    if (charge.amount <= left) continue;
    const Measure measure = asked.rules[i].rule->measure;
    if (measure == Measure::tokens && charge.limit.kind == LimitKind::sliding_window) {
      output = std::min(output, (left - asked.ask.prompt_tokens) / asked.ask.answers);
    } else if (measure == Measure::money && asked.price) {
      const std::int64_t rate = std::max<std::int64_t>(1, std::max(asked.price->output, asked.price->reasoning));
      const __int128 rest =
          static_cast<__int128>(left - most_cost_of(*asked.price, asked.ask.prompt_tokens, 0)) * 1'000'000;
      output = std::min(
          output, static_cast<std::int64_t>(std::clamp<__int128>(rest / rate / asked.ask.answers, 0, asked.output)));
    } else if (static_cast<int>(i) == verdict.refused_by) {
      return asked.output;  // a bucket or a seat: that passes by waiting
    }
  }
  // The least is tried in any case: its refusal is the one that says what is missing.
  return std::max(output, options_.least_answer);
}

std::expected<Limits::Admission, LimitRefusal> Limits::refuse(const Asked& asked, const Verdict& verdict) const {
  using Kind = LimitRefusal::Kind;
  const auto by = static_cast<std::size_t>(std::max(0, verdict.refused_by));
  const Applied& applied = asked.rules[by];
  const Rule& rule = *applied.rule;
  LimitRefusal refusal{.retry_after = verdict.retry_after, .numbers = asked.numbers(verdict.standings)};
  const std::int64_t amount = asked.charges[by].amount, left = verdict.standings[by].remaining;
  switch (rule.measure) {
    case Measure::money:
      refusal.kind = Kind::quota;
      refusal.error = {
          Code::exhausted,
          fmt::format("The budget '{}' of {} is used up: {} of {} are left {}, and the request may cost {}.", rule.name,
                      applied.who, dollars(left), dollars(rule.capacity), window_name(rule.calendar), dollars(amount))};
      return std::unexpected(std::move(refusal));
    case Measure::seats:
      refusal.error = {Code::exhausted, fmt::format("Too many requests at once for {}: the limit '{}' is {}.",
                                                    applied.who, rule.name, rule.capacity)};
      return std::unexpected(std::move(refusal));
    case Measure::tokens:
    case Measure::requests:
      break;
  }
  const std::string_view what = rule.measure == Measure::tokens ? "tokens" : "requests";
  if (verdict.never && rule.capacity > 0) {
    refusal.kind = Kind::too_large;
    refusal.error = {
        Code::invalid,
        fmt::format("The request may use {} {}; the limit '{}' of {} is {} in {}: ask for a shorter answer.", amount,
                    what, rule.name, applied.who, rule.capacity, go_duration(rule.period))};
  } else {
    refusal.error = {
        Code::exhausted,
        fmt::format("Rate limit '{}' of {} reached: {} {} in {}, of which {} are left, and the request may use {}.",
                    rule.name, applied.who, rule.capacity, what, go_duration(rule.period), left, amount)};
  }
  return std::unexpected(std::move(refusal));
}

Result<RateNumbers> Limits::numbers(const Subject& subject, const std::string& model) {
  const auto config = this->config();
  const Ask nothing;
  Asked asked{.ask = nothing, .rules = rules_for(*config, subject, model), .price = {}, .charges = {}};
  std::erase_if(asked.rules, [](const Applied& a) {
    return a.rule->measure == Measure::money || a.rule->measure == Measure::seats;
  });
  std::vector<store::Limit> limits;
  for (const Applied& applied : asked.rules) limits.push_back(applied.limit);
  return asked.numbers(TRY(counters_.look(limits)));
}

}  // namespace ashlar::gateway
