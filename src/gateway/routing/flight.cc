#include "gateway/routing/flight.h"
#include "gateway/routing/hints.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/stable_hash.h"
#include "engine/prefixes.h"
#include "gateway/routing/prompt_text.h"

namespace ashlar::gateway {

struct Judgement {
  Cause cause = Cause::error;
  bool fault = false;      // the deployment's own: its breaker counts it
  bool fall_back = false;  // another may answer
  bool overload = false;
  bool refused = false;    // it found fault with the request, or had too little time
  bool elsewhere = false;  // of others, only those of the groups for this cause
};

namespace {

// What an answer is taken to cost before it ends: people ask for far more tokens than they get.
constexpr int kUsualAnswer = 256;

constexpr int kMostTokens = 1 << 29;  // of a sum's parts

double milliseconds(std::chrono::nanoseconds time) { return static_cast<double>(time.count()) / 1e6; }

// Upstreams that notice it late have no other way to say so.
bool speaks_of_context(const std::string& message) {
  return message.find("context") != std::string::npos &&
         (message.find("length") != std::string::npos || message.find("maximum") != std::string::npos ||
          message.find("window") != std::string::npos || message.find("tokens") != std::string::npos);
}

Judgement judge(const Error& error, bool over_context, std::string_view reason, bool too_late) {
  switch (error.code) {
    case Code::invalid:
    case Code::too_large:
      if (over_context || speaks_of_context(error.message))
        return {.cause = Cause::context, .fall_back = true, .refused = true};
      if (reason == "content_policy_violation" || reason == "content_filter")
        return {.cause = Cause::policy, .fall_back = true, .refused = true, .elsewhere = true};
      return {.refused = true};
    case Code::forbidden:
      return {.cause = Cause::policy, .fall_back = true, .refused = true};
    case Code::unsupported:
      return {.fall_back = true, .refused = true};
    case Code::cancelled:
      return {};
    case Code::deadline:
      return {.fault = !too_late, .fall_back = !too_late, .overload = true, .refused = too_late};
    case Code::exhausted:
    case Code::unavailable:
      if (reason == "upstream_quota") return {.cause = Cause::budget, .fault = true, .fall_back = true};
      return {.fault = true, .fall_back = true, .overload = true};
    case Code::not_found:     // the deployment does not have what it is configured for
    case Code::unauthorized:  // its own credentials
    case Code::corrupt:
    case Code::io:
    case Code::internal:
      return {.fault = true, .fall_back = true};
  }
  return {};
}

int answer_tokens(const engine::Request& request) {
  const int most = request.stopping.max_tokens;
  return (most < 0 ? kUsualAnswer : std::min(most, kUsualAnswer)) * std::clamp(request.n, 1, 1000);
}

bool counted(const engine::Request& request, const RouteHints& hints) {
  return hints.prompt_tokens > 0 || std::holds_alternative<std::vector<std::int32_t>>(request.prompt.input);
}

int tokens_of(const engine::Text& text) {
  if (!text.ids.empty()) return static_cast<int>(text.ids.size());
  return text.text.empty() ? 0 : std::max(1, static_cast<int>(text.text.size() / 4));
}

// Of what is said of one; below 0: it is not.
int choice_of(const engine::Event& event) {
  return std::visit(
      [](const auto& said) {
        if constexpr (requires { said.choice; })
          return said.choice;
        else
          return -1;
      },
      event);
}

}  // namespace

Charge::Charge(std::shared_ptr<Live> live, int prompt, int answer)
    : live_(std::move(live)), prompt_(prompt), answer_(answer) {
  live_->vitals->outstanding.fetch_add(prompt_ + answer_, std::memory_order_relaxed);
}

void Charge::prompt_done(std::chrono::nanoseconds waited) {
  Vitals& vitals = *live_->vitals;
  vitals.first_tokens.fetch_add(1, std::memory_order_relaxed);
  vitals.first_microseconds.fetch_add(waited.count() / 1000, std::memory_order_relaxed);
  take(std::exchange(prompt_, 0));
}

void Charge::answered(int tokens) {
  live_->vitals->tokens.fetch_add(tokens, std::memory_order_relaxed);
  const int done = std::min(tokens, answer_);
  answer_ -= done;
  take(done);
}

Attempt::Attempt(std::shared_ptr<Flight> flight, Picked picked, int prompt, int answer, TimePoint now)
    : flight_(std::move(flight)),
      picked_(std::move(picked)),
      charge_(std::make_unique<Charge>(picked_.live, prompt, answer)),
      began_(now),
      last_(now) {}

Attempt::~Attempt() { ticket_.reset(); }  // no call comes after it: then the rest may go

void Attempt::on(engine::Event event) { flight_->on(*this, std::move(event)); }

Flight::Flight(std::shared_ptr<Router::Core> core, engine::Request&& request, RouteHints hints, Plan plan)
    : core_(std::move(core)),
      id_(core_->number()),
      request_(std::make_unique<const engine::Request>(std::move(request))),
      priority_(request_->priority),
      choices_(std::max(request_->n, 1)),
      deadline_(request_->deadline),
      hints_(std::move(hints)),
      only_(std::move(plan.only)),
      key_(std::move(plan.key)),
      keep_(plan.keep),
      record_(!key_.empty()),
      tap_(std::move(plan.tap)),
      prompt_tokens_(hints_.prompt_tokens > 0 ? hints_.prompt_tokens : estimated_tokens(request_->prompt)),
      answer_tokens_(answer_tokens(*request_)),
      arrived_(core_->now()),
      group_(std::move(plan.group)),
      split_(std::move(plan.split)),
      trace_(std::move(plan.trace)) {
  seen_groups_.insert(group_->name);
  const RouterOptions& options = core_->options();
  prompt_tokens_ = std::min(prompt_tokens_, kMostTokens);
  most_tokens_ = counted(*request_, hints_) ? prompt_tokens_ + std::clamp(request_->stopping.max_tokens, 1, kMostTokens)
                                            : prompt_tokens_ / 2;  // an estimate may be so far off
  prefix_ = stable_hash(first_words(request_->prompt, options.ring_characters),
                        stable_hash(hints_.adapter, stable_hash(request_->tenant)));
  blocks_ = hints_.prefix_blocks;
}

Flight::Flight(std::shared_ptr<Router::Core> core, ResponseCache::Answer answer, RouteTrace trace)
    : core_(std::move(core)),
      id_(core_->number()),
      record_(true),
      arrived_(core_->now()),
      over_(true),
      told_(true),
      said_(*answer),
      trace_(std::move(trace)) {
  for (engine::Event& event : said_) {
    if (auto* finished = std::get_if<engine::Finished>(&event)) finished->usage.kept = true;
    if (auto* started = std::get_if<engine::Started>(&event)) started->asked.reset();  // nobody computes it now
  }
}

std::optional<std::uint64_t> Flight::listen(engine::Sink& sink, std::shared_ptr<const Joined> joined) {
  const Lock lock(mutex_);
  // Who left an answer to nobody has cancelled it.
  if (abandoned_ || (over_ && said_.empty())) return std::nullopt;
  listeners_.push_back({.id = ++listeners_made_, .sink = &sink, .joined = std::move(joined)});
  if (over_ && listeners_.back().joined) done_with(listeners_.back());
  return listeners_made_;
}

void Flight::leave(std::uint64_t listener) {
  std::shared_ptr<Attempt> dropped;
  bool inside = false;
  {
    const Lock lock(mutex_);
    for (Listener& each : listeners_)
      if (each.id == listener) each.sink = nullptr;
    if (std::ranges::any_of(listeners_, [](const Listener& each) { return each.sink != nullptr; })) return;
    inside = calling_ == std::this_thread::get_id();
    abandoned_ = true;
    if (!over_) {
      if (attempt_ && !attempt_->over_) {
        // Who leaves after a long wait for the first token has told us something of the deployment.
        const auto slow = attempt_->picked_.live->config.breaker.slow;
        const bool told = !attempt_->first_token_ && slow.count() > 0 && core_->now() - attempt_->began_ > slow;
        report(*attempt_, told ? Fleet::Ended::How::good : Fleet::Ended::How::dropped, false);
        finish_try(*attempt_, "cancelled", std::nullopt, nullptr);
      }
      end(false);
    }
    dropped = std::move(attempt_);
  }
  // A generator need not bear that its ticket dies in its own call.
  if (dropped && inside) core_->bury(std::move(dropped));
}

void Flight::name_prefixes() {
  if (group_->strategy != Strategy::prefix_index || salt_ || !hints_.prefix_blocks.empty()) return;
  // An adapter is called by its name; what it belongs to has keys without.
  salt_ = prefix_salt(*request_, only_.empty() ? hints_.adapter : request_->model);
  blocks_ = engine::prefix_keys(request_->prompt, *salt_);
}

std::vector<Told> Flight::ask_caches(const Group& group, std::span<const std::uint64_t> keys) const {
  std::vector<Told> out;
  if (group.strategy != Strategy::prefix_index || keys.empty()) return out;
  for (const auto& live : core_->members(group.name)) {
    const Deployment& config = live->config;
    const bool renamed = !config.model.empty() && only_.empty();
    if (const auto cache = config.generator->cached_prefixes(renamed ? config.model : request_->model))
      out.push_back({live->vitals.get(), cache->cached(keys)});
  }
  return out;
}

std::optional<Flight::Refusal> Flight::advance() {
  for (;;) {
    std::shared_ptr<Attempt> dropped;
    Question question;
    std::set<std::string> tried;
    std::shared_ptr<const Group> group;
    std::optional<Split> split;
    {
      const Lock lock(mutex_);
      dropped = std::exchange(attempt_, nullptr);
      if (over_) return std::nullopt;
      group = group_;
      split = split_;
      tried = tried_;
      name_prefixes();
      question = {.prompt_tokens = prompt_tokens_,
                  .answer_tokens = answer_tokens_,
                  .most_tokens = most_tokens_,
                  .priority = priority_,
                  .data_classes = hints_.data_classes,
                  .session = hints_.session.empty() ? "" : request_->tenant + '\n' + hints_.session,
                  .prefix = prefix_,
                  .blocks = blocks_};
    }
    dropped.reset();
    question.group = group.get();
    const std::vector<Told> told = ask_caches(*group, question.blocks);
    question.told = told;
    question.without = &tried;
    question.only = only_.empty() ? nullptr : &only_;
    const bool chosen = split && split->chosen && core_->options().steering->takes(group->name);
    question.trial = chosen ? &split->canary : nullptr;
    auto picked = core_->pick(*this, question);
    if (std::holds_alternative<Router::Core::Wait>(picked)) return std::nullopt;
    if (auto* found = std::get_if<Picked>(&picked)) {
      if (forbidden(*found)) continue;
      std::optional<Refusal> refused = ask(std::move(*found));
      if (!refused) return std::nullopt;
      if (auto end = settle(std::move(*refused))) return end;
      continue;
    }
    const Lock lock(mutex_);
    if (over_) return std::nullopt;
    if (auto* turned = std::get_if<Router::Core::Turned>(&picked)) {
      if (next_group(Cause::error)) continue;
      return turned->refusal;
    }
    const Nobody& nobody = std::get<Nobody>(picked);
    const Cause cause = cause_             ? *cause_
                        : nobody.broken    ? Cause::error
                        : nobody.too_long  ? Cause::context
                        : nobody.forbidden ? Cause::policy
                                           : Cause::error;
    if (next_group(cause)) continue;
    return last_refusal_ ? *last_refusal_ : refusal_of(nobody);
  }
}

bool Flight::forbidden(const Picked& picked) {
  if (!core_->options().permit) return false;
  const Permit permit = core_->options().permit(*request_, hints_, picked.live->config);
  if (!permit.refused) return false;
  core_->ended(picked.live, picked.call, {});
  const Lock lock(mutex_);
  const Error error{*permit.refused == Cause::budget ? Code::exhausted : Code::forbidden, permit.why};
  tried_.insert(picked.live->config.name);
  trace_.tries.push_back({.deployment = picked.live->config.name,
                          .group = group_->name,
                          .label = picked.live->config.label,
                          .outcome = "refused",
                          .cause = permit.refused,
                          .code = std::string(ashlar::name(error.code)),
                          .detail = permit.why});
  cause_ = permit.refused;
  last_refusal_ = std::make_unique<const Refusal>(Refusal{.error = error});
  return true;
}

Flight::Refusal Flight::refusal_of(const Nobody& nobody) const {
  if (nobody.broken) {
    const auto wait =
        nobody.again == TimePoint::max() ? std::chrono::nanoseconds{1'000'000'000} : nobody.again - core_->now();
    return {.error = {Code::unavailable, fmt::format("every deployment of '{}' is out of service", group_->name)},
            .retry_after =
                std::max(std::chrono::milliseconds{1000}, std::chrono::duration_cast<std::chrono::milliseconds>(wait))};
  }
  if (nobody.too_long)
    return {.error = {Code::invalid,
                      fmt::format("no deployment of '{}' has a context of {} tokens", group_->name, most_tokens_)},
            .over_context = true};
  if (nobody.forbidden)
    return {.error = {Code::forbidden, fmt::format("no deployment of '{}' may see data of this class", group_->name)}};
  return {.error = {Code::unavailable, fmt::format("'{}' has no deployment", group_->name)}};
}

std::optional<Flight::Refusal> Flight::ask(Picked picked) {
  const auto attempt =
      std::make_shared<Attempt>(shared_from_this(), std::move(picked), prompt_tokens_, answer_tokens_, core_->now());
  const Deployment& config = attempt->picked_.live->config;
  {
    const Lock lock(mutex_);
    if (over_) {
      report(*attempt, Fleet::Ended::How::dropped, false);
      return std::nullopt;
    }
    attempt_ = attempt;
    ++attempts_;
    tried_.insert(config.name);
    trace_.group = group_->name;
    trace_.strategy = name(group_->strategy);
    trace_.choice = attempt->picked_.why;
    trace_.cached = attempt->picked_.cached;
    trace_.tries.push_back({.deployment = config.name, .group = group_->name, .label = config.label});
  }
  engine::Request request = *request_;
  if (group_->strategy == Strategy::prefix_index) request.prefix_salt = salt_;
  if (!config.model.empty() && only_.empty()) request.model = config.model;
  auto started = config.generator->start(std::move(request), *attempt);
  std::unique_ptr<engine::Ticket> late;  // dies after the lock, before the attempt
  const Lock lock(mutex_);
  if (!started) {
    if (attempt_ != attempt) return std::nullopt;
    attempt_ = nullptr;
    if (attempt->over_) return std::nullopt;
    const Refusal& refusal = started.error();
    const Judgement judgement = judge(refusal.error, refusal.over_context, refusal.reason, core_->now() >= deadline_);
    report(*attempt, judgement.fault ? Fleet::Ended::How::bad : Fleet::Ended::How::dropped, judgement.overload,
           judgement.refused);
    finish_try(*attempt, "refused", judgement.cause, &refusal.error);
    return started.error();
  }
  if (attempt_ != attempt) {
    late = std::move(*started);
    return std::nullopt;
  }
  attempt->ticket_ = std::move(*started);
  if (tap_ && !std::exchange(tapped_, true)) tap_->started();
  core_->set_timer(*this, next_check());
  return std::nullopt;
}

std::optional<Flight::Refusal> Flight::settle(Refusal refusal) {
  const Lock lock(mutex_);
  const Judgement judgement = judge(refusal.error, refusal.over_context, refusal.reason, core_->now() >= deadline_);
  if (!fall_back(judgement)) return refusal;
  last_refusal_ = std::make_unique<const Refusal>(std::move(refusal));
  return std::nullopt;
}

bool Flight::fall_back(const Judgement& judgement) {
  const Cause cause = judgement.cause;
  const bool trial = on_trial(), sensible = judgement.fall_back || (judgement.refused && trial);
  if (committed_ || !sensible || attempts_ >= core_->options().max_attempts) return false;
  if (judgement.elsewhere && !trial && !group_->fallbacks.contains(cause)) return false;
  // A trial has but its share of the requests: its failures cost the others nothing.
  if (!core_->may_retry(cause == Cause::error && !trial)) return false;
  // A route without others for who has spent its budget has those for any failure.
  cause_ = cause == Cause::budget && !group_->fallbacks.contains(cause) ? Cause::error : cause;
  // Nobody with no more room than the one that had too little.
  if (cause == Cause::context && !trace_.tries.empty())
    if (const auto live = core_->find(trace_.tries.back().deployment))
      most_tokens_ = std::max(most_tokens_, live->config.context + 1);
  return !judgement.elsewhere || trial || next_group(cause);
}

bool Flight::on_trial() const {
  return split_ && split_->chosen && !trace_.tries.empty() && trace_.tries.back().deployment == split_->canary;
}

bool Flight::next_group(Cause cause) {
  if (const auto found = group_->fallbacks.find(cause); found != group_->fallbacks.end())
    further_groups_.insert(further_groups_.begin(), found->second.begin(), found->second.end());
  while (!further_groups_.empty() && attempts_ < core_->options().max_attempts) {
    const std::string name = further_groups_.front();
    further_groups_.erase(further_groups_.begin());
    if (!seen_groups_.insert(name).second) continue;
    auto group = core_->group(name);
    if (!group || group->tiers) continue;
    group_ = std::move(group);
    Steering* const steering = core_->options().steering;
    split_ = steering != nullptr ? steering->split(group_->name, *request_) : std::nullopt;
    return true;
  }
  return false;
}

std::string Flight::wrong_with(const Attempt& attempt, const engine::Event& event) const {
  if (std::holds_alternative<engine::Started>(event))
    return attempt.started_ || attempt.first_token_ ? "the answer began twice" : "";
  if (std::holds_alternative<engine::Finished>(event))
    return std::ssize(attempt.ended_choices_) < choices_ ? "the answer finished before its end" : "";
  if (std::holds_alternative<engine::Failed>(event)) return "";
  const int choice = choice_of(event);
  if (choice < 0 || choice >= choices_) return fmt::format("there is no choice {}", choice);
  const auto* members = std::get_if<engine::Members>(&event);
  if (members != nullptr && members->of != engine::Members::Of::message) return "";  // they may come behind its end
  return attempt.ended_choices_.contains(choice) ? "a choice went on after its end" : "";
}

void Flight::on(Attempt& attempt, engine::Event event) {
  const Lock lock(mutex_);
  if (over_ || &attempt != attempt_.get() || attempt.over_) return;
  const TimePoint now = core_->now();
  if (const std::string wrong = wrong_with(attempt, event); !wrong.empty())
    return fail(attempt, {.error = {Code::corrupt, "the deployment's answer makes no sense: " + wrong}}, "garbage");
  if (auto* failed = std::get_if<engine::Failed>(&event)) return fail(attempt, std::move(*failed), "failed");
  if (auto* started = std::get_if<engine::Started>(&event)) {
    attempt.started_ = std::move(*started);
    return;
  }
  attempt.last_ = now;
  if (!attempt.first_token_) {
    attempt.first_token_ = now;
    attempt.charge_->prompt_done(now - attempt.began_);
    if (core_->options().between_tokens.count() > 0) core_->set_timer(*this, next_check());
  }
  if (!committed_) {
    commit();
    engine::Started started =
        attempt.started_ ? std::move(*attempt.started_) : engine::Started{.prompt_tokens = prompt_tokens_};
    started.deployment = attempt.picked_.live->config.name;
    if (!started.asked) started.asked = attempt.began_;
    say(std::move(started));
    if (over_ || attempt_.get() != &attempt) return;  // its listener left
  }
  if (const auto* text = std::get_if<engine::Text>(&event)) {
    const int tokens = tokens_of(*text);
    attempt.tokens_ += tokens;
    attempt.charge_->answered(tokens);
  }
  if (const auto* ended = std::get_if<engine::ChoiceEnd>(&event)) attempt.ended_choices_.insert(ended->choice);
  const bool finished = std::holds_alternative<engine::Finished>(event);
  if (finished) {
    report(attempt, Fleet::Ended::How::good, false);
    finish_try(attempt, "ok", std::nullopt, nullptr);
    attempt.over_ = true;
  }
  say(std::move(event));
  if (finished && !over_) end(true);
}

// Nobody else is asked any more: what that needed is let go of. A version on trial is told of the request at its end.
void Flight::commit() {
  explain();
  committed_ = true;
  if (!split_) request_ = nullptr;
  further_groups_ = {};
  seen_groups_.clear();
  tried_.clear();
  blocks_ = {};
}

// Before the first event, with which the client's headers go out.
void Flight::explain() const {
  if (request_ && !committed_) gateway::explain(*request_, trace_);
}

// As far as the way is known when the answer comes to who joined, perhaps long after its first event.
void Flight::explain_to(const Listener& listener) const {
  if (listener.next > 0 || !listener.joined || !listener.joined->notes) return;
  note(*listener.joined->notes, trace_.joined_by(listener.joined->id));
}

void Flight::done_with(const Listener& listener) const {
  if (!core_->options().on_done) return;
  core_->options().on_done(listener.joined ? trace_.joined_by(listener.joined->id) : trace_);
}

void Flight::fail(Attempt& attempt, engine::Failed failed, std::string outcome) {
  const Judgement judgement = judge(failed.error, failed.over_context, failed.reason, core_->now() >= deadline_);
  attempt.over_ = true;
  report(attempt, judgement.fault ? Fleet::Ended::How::bad : Fleet::Ended::How::dropped, judgement.overload,
         judgement.refused);
  finish_try(attempt, std::move(outcome), judgement.cause, &failed.error);
  if (fall_back(judgement)) {
    last_refusal_ = std::make_unique<const Refusal>(std::move(failed));
    // Another thread asks the next one: this is the generator's own, and the attempt's ticket must die.
    return core_->post({.what = Router::Core::Task::What::advance, .flight = shared_from_this()});
  }
  explain();
  say(std::move(failed));
  if (!over_) end(false);
}

void Flight::report(Attempt& attempt, Fleet::Ended::How how, bool overload, bool refused) {
  const TimePoint now = core_->now();
  Fleet::Ended ended{.how = how, .overload = overload};
  const bool waited = !attempt.first_token_ && how != Fleet::Ended::How::dropped;
  if (attempt.first_token_) ended.first_token = *attempt.first_token_ - attempt.began_;
  if (waited) ended.first_token = now - attempt.began_;
  if (attempt.first_token_ && attempt.tokens_ > 1)
    ended.seconds_per_token =
        std::chrono::duration<double>(now - *attempt.first_token_).count() / (attempt.tokens_ - 1);
  if (how == Fleet::Ended::How::good) ended.work = prompt_tokens_ + answer_tokens_;
  attempt.charge_.reset();
  Steering* const steering = core_->options().steering;
  const bool first = attempts_ == 1 && (refused || how != Fleet::Ended::How::dropped);
  if (tap_ && first) tap_->first(attempt.picked_.live->config.name, how == Fleet::Ended::How::good && !refused);
  if (steering != nullptr && first && request_)
    steering->ended({.group = group_->name,
                     .deployment = attempt.picked_.live->config.name,
                     .request = *request_,
                     .how = refused                          ? AttemptEnd::How::refused
                            : how == Fleet::Ended::How::good ? AttemptEnd::How::good
                                                             : AttemptEnd::How::fault,
                     .first_token = ended.first_token,
                     .seconds_per_token = ended.seconds_per_token});
  core_->ended(attempt.picked_.live, attempt.picked_.call, ended);
}

void Flight::finish_try(Attempt& attempt, std::string outcome, std::optional<Cause> cause, const Error* error) {
  DeploymentMetrics& metrics = *attempt.picked_.live->metrics;
  Counter& counter = outcome == "ok"          ? metrics.ok
                     : outcome == "refused"   ? metrics.refused
                     : outcome == "cancelled" ? metrics.cancelled
                                              : metrics.failed;
  counter.add();
  RouteTry& last = trace_.tries.back();
  last.outcome = std::move(outcome);
  last.cause = cause;
  last.milliseconds = milliseconds(core_->now() - attempt.began_);
  if (error == nullptr) return;
  last.code = ashlar::name(error->code);
  last.detail = error->message;
}

void Flight::say(engine::Event event) {
  if (tap_) tap_->said(event);
  if (record_) {
    said_.push_back(std::move(event));
    return deliver();
  }
  if (listeners_.empty() || listeners_.front().sink == nullptr) return;
  const std::thread::id before = std::exchange(calling_, std::this_thread::get_id());
  listeners_.front().sink->on(std::move(event));
  calling_ = before;
}

// Of those who share an answer one pays: the first who has it whole. For the others nothing was computed.
engine::Event Flight::for_listener(const engine::Event& said) {
  const auto* finished = std::get_if<engine::Finished>(&said);
  if (finished == nullptr || !std::exchange(paid_, true)) return said;
  engine::Finished shared = *finished;
  shared.usage.kept = true;
  return shared;
}

void Flight::deliver() {
  const Lock lock(mutex_);
  const std::thread::id before = std::exchange(calling_, std::this_thread::get_id());
  for (std::size_t i = 0; i < listeners_.size(); ++i)
    while (listeners_[i].sink != nullptr && listeners_[i].next < said_.size()) {
      explain_to(listeners_[i]);
      listeners_[i].sink->on(for_listener(said_[listeners_[i].next++]));
    }
  calling_ = before;
}

void Flight::turn_away(Refusal refusal) {
  const Lock lock(mutex_);
  listeners_.front().sink = nullptr;
  refuse(std::move(refusal));
}

void Flight::refuse(Refusal refusal) {
  const Lock lock(mutex_);
  if (over_) return;
  if (attempt_ && !attempt_->over_) {
    attempt_->over_ = true;
    report(*attempt_, Fleet::Ended::How::dropped, false);
    finish_try(*attempt_, "cancelled", std::nullopt, nullptr);
  }
  explain();
  say(std::move(refusal));
  if (!over_) end(false);
}

void Flight::shut() {
  refuse({.error = {Code::unavailable, "the server is shutting down"}});
  std::shared_ptr<Attempt> dropped;
  const Lock lock(mutex_);
  std::swap(dropped, attempt_);
  // `lock` was made last: it is gone when `dropped` dies.
}

TimePoint Flight::next_check() const {
  TimePoint when = deadline_;
  if (!attempt_ || attempt_->over_) return when;
  const RouterOptions& options = core_->options();
  const auto most = attempt_->first_token_ ? options.between_tokens : options.first_token;
  if (most.count() > 0) when = std::min(when, attempt_->last_ + most);
  return when;
}

void Flight::check(TimePoint now) {
  const Lock lock(mutex_);
  if (over_) return;
  // The generator knows the deadline and says so itself; one that hangs does not.
  const auto grace = std::chrono::milliseconds{100};
  if (attempt_ && !attempt_->over_) {
    Attempt& attempt = *attempt_;
    const RouterOptions& options = core_->options();
    const auto most = attempt.first_token_ ? options.between_tokens : options.first_token;
    if (most.count() > 0 && now >= attempt.last_ + most)
      return fail(attempt,
                  {.error = {Code::deadline, fmt::format("the deployment said nothing for {:g} s",
                                                         std::chrono::duration<double>(most).count())}},
                  "timeout");
    if (deadline_ != TimePoint::max() && now >= deadline_ + grace)
      return fail(attempt, {.error = {Code::deadline, "not answered before the request's deadline"}}, "timeout");
  }
  TimePoint next = next_check();
  if (next <= now) next = deadline_ + grace;
  if (next > now && next != TimePoint::max()) core_->set_timer(*this, next);
}

void Flight::end(bool good) {
  over_ = true;
  ResponseCache::Answer answer;
  if (good && keep_) answer = std::make_shared<const std::vector<engine::Event>>(said_);
  if (!key_.empty()) core_->landed(key_, *this, std::move(answer));
  core_->leave(*this);
  if (std::exchange(told_, true)) return;
  for (const Listener& each : listeners_) done_with(each);
}

RouteTrace Flight::trace() const {
  const Lock lock(mutex_);
  return trace_;
}

}  // namespace ashlar::gateway
