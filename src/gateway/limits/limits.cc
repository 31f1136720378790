#include "gateway/limits/limits.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <span>

#include "gateway/limits/limits_worker.h"

namespace ashlar::gateway {
namespace {

using store::Charge;
using store::LimitKind;
using store::Standing;
using store::Verdict;

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
  if (ms < 1000) return ms == 0 ? "0s" : fmt::format(FMT_COMPILE("{}ms"), ms);
  const std::int64_t s = (ms + 999) / 1000;
  if (s >= 3600) return fmt::format(FMT_COMPILE("{}h{}m{}s"), s / 3600, s / 60 % 60, s % 60);
  if (s >= 60) return fmt::format(FMT_COMPILE("{}m{}s"), s / 60, s % 60);
  return fmt::format(FMT_COMPILE("{}s"), s);
}

std::string_view window_name(store::Calendar calendar) {
  static constexpr std::string_view kNames[] = {"in all", "this hour", "today", "this month"};
  return kNames[static_cast<int>(calendar)];
}

}  // namespace

std::vector<std::pair<std::string, std::string>> rate_headers(const RateNumbers& numbers) {
  std::vector<std::pair<std::string, std::string>> headers;
  headers.reserve(6);
  const auto add = [&](const std::optional<Standing>& standing, const char* limit, const char* left,
                       const char* reset) {
    if (!standing) return;
    headers.emplace_back(limit, fmt::format_int(standing->limit).str());
    headers.emplace_back(left, fmt::format_int(standing->remaining).str());
    headers.emplace_back(reset, go_duration(standing->reset));
  };
  add(numbers.requests, "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests");
  add(numbers.tokens, "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens");
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
  std::span<const Applied> rules;
  std::optional<Price> price;
  std::int64_t output = 0;
  std::vector<Charge> charges;

  std::int64_t tokens() const { return ask.prompt_tokens + ask.answers * output; }
  std::int64_t cost() const { return price ? most_cost_of(*price, ask.prompt_tokens, ask.answers * output) : 0; }

  void charge() {
    charges.clear();
    charges.reserve(rules.size());
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

// --- an admission

Limits::Admission::Admission(Admission&& other) noexcept
    : limits_(std::exchange(other.limits_, nullptr)),
      running_(std::move(other.running_)),
      pass_(std::move(other.pass_)),
      max_tokens_(other.max_tokens_),
      numbers_(other.numbers_) {}

void Limits::Admission::keep_in(const std::shared_ptr<OpenUsage>& open) {
  if (open == nullptr) return;
  open->hold(pass_);
  const std::lock_guard lock(running_->mutex);
  running_->open = open;
  if (running_->also_made > 0) open->also(running_->also_made);
}

void Limits::Admission::release() {
  if (Limits* const limits = std::exchange(limits_, nullptr)) limits->end(*running_, nullptr);
}

void Limits::Admission::settle(const TokenUse& use) {
  if (Limits* const limits = std::exchange(limits_, nullptr)) limits->end(*running_, &use);
}

void Limits::end(Running& request, const TokenUse* use) {
  std::vector<Running::Also> also;
  std::vector<std::pair<Rule, Applied>> watched;
  {
    const std::lock_guard lock(request.mutex);
    request.over = true;
    if (use != nullptr) request.use = *use;
    also.swap(request.also);
    watched.swap(request.watched);
  }
  if (request.seat) worker_->ended(request.id);
  if (!request.measures.empty() && use == nullptr) counters_.release(request.id);
  if (!request.measures.empty() && use != nullptr) {
    std::vector<std::int64_t> amounts;
    amounts.reserve(request.measures.size());
    for (const Measure measure : request.measures)
      amounts.push_back(measure == Measure::tokens ? use->total() : measure == Measure::money ? request.cost(*use) : 1);
    counters_.settle(request.id, amounts);
  }
  for (const Running::Also& each : also) end(each, request, use);
  if (use != nullptr && !watched.empty()) worker_->look_at(std::move(watched));
}

void Limits::end(const Running::Also& also, const Running& request, const TokenUse* use) {
  if (also.measure == Measure::seats) worker_->ended(also.id);
  if (use == nullptr) return counters_.release(also.id);
  const std::int64_t amount = also.measure == Measure::money ? request.cost(*use) : 1;
  counters_.settle(also.id, {&amount, 1});
}

// --- limits

Limits::Limits(store::Counters& counters, Options options)
    : counters_(counters),
      options_(std::move(options)),
      worker_(std::make_unique<LimitsWorker>(counters, options_.on_alert)) {}

Limits::~Limits() = default;

Result<std::unique_ptr<Limits>> Limits::create(LimitsConfig config, store::Counters& counters, Options options) {
  if (!options.on_alert) options.on_alert = [](const BudgetAlert&) {};
  std::unique_ptr<Limits> limits(new Limits(counters, std::move(options)));
  TRY(limits->apply(std::move(config)));
  return limits;
}

std::shared_ptr<const LimitsConfig> Limits::config() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !changing_; });
  return config_;
}

bool Limits::enter(Admission& admission, const std::shared_ptr<const LimitsConfig>& config) {
  const std::lock_guard lock(mutex_);
  if (config_ != config || changing_) return false;
  admission.pass_ = running_->enter(admission.running_);
  return true;
}

bool Limits::idle() const {
  const auto now = config();
  return now->rules.empty() && now->caps.empty();
}

bool Limits::measures() const {
  const auto now = config();
  return !now->rules.empty() || !now->caps.empty() || !now->prices.empty();
}

std::expected<Limits::Admission, LimitRefusal> Limits::admit(const Ask& ask) {
  while (true) {
    const auto config = this->config();
    auto admission = admit(ask, config);
    if (!admission || enter(*admission, config)) return admission;
  }  // it is released, and asks the limits that hold now
}

std::expected<Limits::Admission, LimitRefusal> Limits::admit(const Ask& ask,
                                                             const std::shared_ptr<const LimitsConfig>& config) {
  using Kind = LimitRefusal::Kind;
  const auto rules = known_.find(config, ask.subject, ask.model);
  Asked asked{.ask = ask, .rules = *rules, .price = {}, .charges = {}};
  // So that no sum of them overflows; no context is as long.
  constexpr std::int64_t kMostTokens = 1'000'000'000;
  if (ask.prompt_tokens < 0 || ask.prompt_tokens > kMostTokens || ask.max_tokens > kMostTokens || ask.answers < 1 ||
      ask.answers > 10'000)
    return std::unexpected(LimitRefusal{
        .kind = Kind::too_large, .error = {Code::invalid, "the request asks for more tokens than can be counted"}});
  const bool stated = ask.max_tokens >= 0;
  asked.output = std::clamp<std::int64_t>(stated ? ask.max_tokens : ask.room, 0, kMostTokens);
  if (const auto cap = output_cap(*config, ask.subject, ask.model)) asked.output = std::min(asked.output, *cap);
  const std::int64_t now_ms = options_.clock().utc_ms;
  const Price* price = config->prices.find(ask.model, now_ms);
  if (price == nullptr && !ask.asked_as.empty()) price = config->prices.find(ask.asked_as, now_ms);
  if (price != nullptr) asked.price = *price;
  const auto guards = [](const Applied& a) { return a.rule->measure == Measure::money && !a.rule->soft; };
  const bool money = std::ranges::any_of(asked.rules, guards);
  if (money && !asked.price && config->refuse_unpriced)
    return std::unexpected(LimitRefusal{
        .kind = Kind::quota,
        .error = {Code::exhausted, fmt::format("the model '{}' has no price, and a budget applies", ask.model)}});
  if (asked.rules.size() > store::kMostCharges)
    return std::unexpected(LimitRefusal{
        .kind = Kind::unavailable, .error = {Code::unavailable, "more limits apply to this request than can be held"}});

  Admission admission;
  admission.running_ = std::make_shared<Running>();
  Running& running = *admission.running_;
  running.id = store::new_reservation_id();
  const auto soft = [](const Applied& a) { return a.rule->soft; };
  std::vector<Applied> hard;
  for (int turn = 0;; ++turn) {
    asked.charge();
    Result<Verdict> verdict = Verdict{.admitted = true};
    if (!asked.charges.empty()) verdict = counters_.reserve(running.id, asked.charges);
    // Who is told of money, and refuses none, does not refuse where it cannot be counted either.
    if (!verdict && !money && hard.empty() && std::ranges::any_of(asked.rules, soft)) {
      std::ranges::remove_copy_if(asked.rules, std::back_inserter(hard), soft);
      asked.rules = hard;
      continue;
    }
    if (!verdict)
      return std::unexpected(
          LimitRefusal{.kind = Kind::unavailable,
                       .error = {Code::unavailable, "the limits cannot be checked now: try again soon"},
                       .retry_after = std::chrono::seconds(1)});
    if (verdict->admitted) {
      admission.numbers_ = asked.numbers(verdict->standings);
      break;
    }
    const std::int64_t output = stated || turn == 3 ? asked.output : shorter(asked, *verdict);
    if (output >= asked.output) return refuse(asked, *verdict);
    asked.output = output;
  }
  admission.limits_ = this;  // from here on something is held
  admission.max_tokens_ = asked.output;
  running.subject = ask.subject;
  running.model = ask.model;
  running.begun_utc_ms = now_ms;
  running.reserved = asked.cost();
  running.price = asked.price;
  running.measures.reserve(asked.rules.size());
  for (const Applied& applied : asked.rules) {
    const Measure measure = applied.rule->measure;
    running.measures.push_back(measure);
    if (measure == Measure::seats || measure == Measure::money) running.keys.push_back(applied.limit.key);
    if (measure == Measure::seats && !std::exchange(running.seat, true))
      worker_->renews(running.id, applied.rule->period);
    if (!applied.rule->alerts.empty()) running.watched.push_back(watched(applied));
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
  std::vector<Applied> rules = *known_.find(config, subject, model);
  std::erase_if(
      rules, [](const Applied& a) { return a.rule->measure == Measure::money || a.rule->measure == Measure::seats; });
  if (rules.empty()) return RateNumbers();
  const Asked asked{.ask = nothing, .rules = rules, .price = {}, .charges = {}};
  std::vector<store::Limit> limits;
  for (const Applied& applied : rules) limits.push_back(applied.limit);
  return asked.numbers(TRY(counters_.look(limits)));
}

}  // namespace ashlar::gateway
