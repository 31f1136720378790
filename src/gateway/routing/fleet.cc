#include "gateway/routing/fleet.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <utility>

namespace ashlar::gateway {
namespace {

constexpr std::array kFirstTokenBounds = {0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0};

Labels labels_of(const Deployment& deployment, const char* outcome = nullptr) {
  Labels labels{{"deployment", deployment.name}, {"group", deployment.group}};
  if (!deployment.label.empty()) labels.emplace_back("label", deployment.label);
  if (outcome != nullptr) labels.emplace_back("outcome", outcome);
  return labels;
}

constexpr std::array kBetweenBounds = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0};

constexpr const char* kRequests = "gateway_deployment_requests_total";
constexpr const char* kRequestsHelp = "Attempts at a deployment, by how they ended.";

// The least by `value`; of equal ones the one with fewer requests, then the one picked longest ago.
template <class Value>
std::shared_ptr<Live> least(const std::vector<std::shared_ptr<Live>>& candidates, Value&& value) {
  const std::shared_ptr<Live>* best = nullptr;
  std::tuple<double, int, std::uint64_t> best_rank;
  for (const auto& live : candidates) {
    const std::tuple rank{static_cast<double>(value(*live)), live->vitals->running, live->vitals->picked};
    if (best != nullptr && best_rank <= rank) continue;
    best = &live;
    best_rank = rank;
  }
  return *best;
}

// Smooth weighted round robin: each gets its weight, the richest goes and pays the sum. Over any run of picks a
// deployment has its share to within one.
std::shared_ptr<Live> by_turn(const std::vector<std::shared_ptr<Live>>& candidates) {
  double total = 0;
  for (const auto& live : candidates) total += live->config.weight;
  const std::shared_ptr<Live>* best = nullptr;
  for (const auto& live : candidates) {
    live->vitals->turn += total > 0 ? live->config.weight : 1;
    if (best == nullptr || live->vitals->turn > (*best)->vitals->turn) best = &live;
  }
  (*best)->vitals->turn -= total > 0 ? total : static_cast<double>(candidates.size());
  return *best;
}

double outstanding(const Live& live) {
  return static_cast<double>(std::max<std::int64_t>(0, live.vitals->outstanding.load(std::memory_order_relaxed)));
}

bool allows(const Deployment& deployment, std::span<const std::string> classes) {
  return std::ranges::all_of(classes, [&](const std::string& each) {
    return std::ranges::find(deployment.data_classes, each) != deployment.data_classes.end();
  });
}

constexpr int kMostPlaces = 1 << 24;  // of a pool

}  // namespace

int places(const Live& live) {
  const int fixed = live.config.max_concurrent;
  if (!live.config.adaptive) return fixed;
  const int found = live.vitals->limit.limit();
  return fixed > 0 ? std::min(fixed, found) : found;
}

DeploymentMetrics::DeploymentMetrics(const Deployment& deployment)
    : ok(kRequests, kRequestsHelp, labels_of(deployment, "ok")),
      failed(kRequests, kRequestsHelp, labels_of(deployment, "failed")),
      refused(kRequests, kRequestsHelp, labels_of(deployment, "refused")),
      cancelled(kRequests, kRequestsHelp, labels_of(deployment, "cancelled")),
      outstanding("gateway_deployment_outstanding_tokens", "Tokens of prompts and answers still to be computed there.",
                  labels_of(deployment)),
      breaker("gateway_deployment_breaker", "Its breaker: 0 closed, 1 half-open, 2 open.", labels_of(deployment)),
      places("gateway_deployment_places", "Requests that it gets at once; 0: any number.", labels_of(deployment)),
      first_token("gateway_deployment_first_token_seconds", "From an attempt's start to its first token.",
                  kFirstTokenBounds, labels_of(deployment)),
      between_tokens("gateway_deployment_inter_token_seconds", "The mean time between an answer's tokens.",
                     kBetweenBounds, labels_of(deployment)) {}

Vitals::Vitals(const Deployment& deployment, const FleetOptions& options)
    : breaker(deployment.breaker),
      first_token(options.latency_half_life),
      limit(options.concurrency),
      prefixes(options.prefix_index_blocks) {}

void Fleet::set(std::vector<Deployment> deployments) {
  std::map<std::string, std::shared_ptr<Live>> by_name;
  std::map<std::string, Pool> pools;
  for (Deployment& deployment : deployments) {
    const std::shared_ptr<Live> before = find(deployment.name);
    const bool same = before && before->config.generator == deployment.generator &&
                      before->config.model == deployment.model && before->config.group == deployment.group;
    auto vitals = same ? before->vitals : std::make_shared<Vitals>(deployment, options_);
    vitals->breaker.change_options(deployment.breaker);
    const bool counted = before && before->config.group == deployment.group && before->config.label == deployment.label;
    auto metrics = counted ? before->metrics : std::make_shared<DeploymentMetrics>(deployment);
    auto live = std::make_shared<Live>(
        Live{.config = std::move(deployment), .vitals = std::move(vitals), .metrics = std::move(metrics)});
    by_name[live->config.name] = live;
    pools.try_emplace(live->config.group, Pool(options_.outliers)).first->second.members.push_back(live);
  }
  for (auto& [group, pool] : pools) take_over(group, pool, by_name);
  pools_ = std::move(pools);
  by_name_ = std::move(by_name);
}

void Fleet::take_over(const std::string& group, Pool& pool,
                      const std::map<std::string, std::shared_ptr<Live>>& by_name) {
  std::vector<std::string> names;
  for (const auto& live : pool.members) names.push_back(live->config.name);
  pool.ring = Ring(names);
  if (const auto before = pools_.find(group); before != pools_.end()) {
    pool.rate = before->second.rate;
    pool.urgent = before->second.urgent;
    pool.usual = before->second.usual;
    pool.first_token = before->second.first_token;
    pool.outliers = before->second.outliers;
    for (const auto& old : before->second.members) {
      const auto now = by_name.find(old->config.name);
      const bool stays = now != by_name.end() && now->second->vitals == old->vitals;
      if (!stays) pool.outliers.remove(old->config.name);
    }
  }
  for (const std::string& name : names) pool.outliers.add(name);
}

std::shared_ptr<Live> Fleet::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Live>> Fleet::members(const std::string& group) const {
  const auto found = pools_.find(group);
  return found == pools_.end() ? std::vector<std::shared_ptr<Live>>{} : found->second.members;
}

std::vector<std::shared_ptr<Live>> Fleet::all() const {
  std::vector<std::shared_ptr<Live>> out;
  for (const auto& [name, live] : by_name_) out.push_back(live);
  return out;
}

bool Fleet::has_place(const Pool& pool, Live& live, int priority) const {
  Vitals& vitals = *live.vitals;
  const int all = places(live);
  if (all == 0) return true;
  int usable = all;
  if (!live.config.adaptive || !vitals.limit.measures()) {
    // The members of a pool keep places together.
    const int members = static_cast<int>(pool.members.size());
    const auto kept = [&](const Reserve& reserve) {
      return (reserve.places(std::min(all, kMostPlaces / members) * members, options_.reserve) + members - 1) / members;
    };
    if (priority >= 0) usable -= kept(pool.urgent);
    if (priority > 0) usable -= kept(pool.usual);
  }
  const bool free = vitals.running < std::max(usable, 1);
  vitals.pressed |= !free;
  return free;
}

std::variant<Picked, Nobody> Fleet::pick(const Question& question, TimePoint now) {
  Nobody nobody;
  const auto found = pools_.find(question.group->name);
  if (found == pools_.end()) return nobody;
  Pool& pool = found->second;
  Candidates candidates, ejected;
  for (const auto& live : pool.members) {
    const Deployment& config = live->config;
    if (question.without != nullptr && question.without->contains(config.name)) continue;
    if (question.only != nullptr && !question.only->contains(config.name)) continue;
    if (config.trial && (question.trial == nullptr || *question.trial != config.name)) continue;
    if (!allows(config, question.data_classes)) {
      nobody.forbidden = true;
    } else if (config.context > 0 && question.most_tokens > config.context) {
      nobody.too_long = true;
    } else if (!live->vitals->breaker.admits(now)) {
      nobody.broken = true;
      nobody.again = std::min(nobody.again, std::max(now, live->vitals->breaker.opens_again()));
    } else if (!has_place(pool, *live, question.priority)) {
      nobody.busy = true;
    } else {
      (pool.outliers.ejected(config.name) ? ejected : candidates).push_back(live);
    }
    note(*live, now);
  }
  // Where the only others failed this very request, one that failed others a while ago is worth a try.
  nobody.broken |= !ejected.empty();
  if (candidates.empty() && !nobody.busy) candidates = std::move(ejected);
  if (candidates.empty()) return nobody;
  // Whom a trial has chosen goes there as long as it can.
  if (const auto trial = std::ranges::find_if(candidates, [](const auto& live) { return live->config.trial; });
      trial != candidates.end())
    candidates = Candidates{*trial};
  Picked picked;
  picked.live = choose(pool, candidates, question, now, picked.why);
  picked.call = picked.live->vitals->breaker.begin();
  picked.live->vitals->picked = ++picks_;
  ++picked.live->vitals->running;
  if (question.priority < 0) pool.urgent.came();
  if (question.priority == 0) pool.usual.came();
  if (question.group->strategy == Strategy::prefix_index) {
    picked.cached = cached(*picked.live, question, now);
    picked.live->vitals->prefixes.sent(question.blocks, now);
  }
  return picked;
}

std::shared_ptr<Live> Fleet::choose(Pool& pool, const Candidates& candidates, const Question& question, TimePoint now,
                                    std::string& why) {
  std::string session;
  if (question.group->sticky && !question.session.empty()) {
    session = question.group->name + '\n' + question.session;
    const std::string had = sessions_.find(session, now);
    const auto found = std::ranges::find_if(candidates, [&](const auto& live) { return live->config.name == had; });
    if (found != candidates.end()) {
      why = "session";
      return *found;
    }
  }
  // Weight 0 takes nothing as long as there is another.
  Candidates weighty;
  std::ranges::copy_if(candidates, std::back_inserter(weighty),
                       [](const auto& live) { return live->config.weight > 0; });
  const Candidates& among = weighty.empty() ? candidates : weighty;
  std::shared_ptr<Live> chosen;
  why = name(question.group->strategy);
  switch (question.group->strategy) {
    case Strategy::weighted:
      chosen = by_turn(among);
      break;
    case Strategy::least_outstanding:
      chosen = least(among, outstanding);
      break;
    case Strategy::latency:
      // One that was never timed is tried, by one request at a time.
      chosen = least(among, [&](const Live& live) {
        const auto seconds = live.vitals->first_token.value(now);
        if (!seconds) return live.vitals->running == 0 ? 0.0 : std::numeric_limits<double>::max();
        return *seconds * (live.vitals->running + 1);
      });
      break;
    case Strategy::prefix_ring:
      chosen = by_ring(pool, among, question, why);
      break;
    case Strategy::prefix_index:
      chosen = least(among, [&](const Live& live) {
        return outstanding(live) + std::max(0, question.prompt_tokens - cached(live, question, now));
      });
      break;
    case Strategy::cheapest:
      chosen = least(among, [&](const Live& live) {
        return static_cast<double>(live.config.input_nanos) * question.prompt_tokens +
               static_cast<double>(live.config.output_nanos) * question.answer_tokens;
      });
      break;
  }
  if (!session.empty()) sessions_.set(session, chosen->config.name, now);
  return chosen;
}

// What it says itself, and what it was sent so lately that it may not have computed it yet. Of one that says nothing,
// all that it was ever sent.
int Fleet::cached(const Live& live, const Question& question, TimePoint now) const {
  const auto told = std::ranges::find(question.told, live.vitals.get(), &Told::deployment);
  const bool tells = told != question.told.end();
  const std::size_t sent =
      live.vitals->prefixes.match(question.blocks, tells ? now - options_.prefix_recent : TimePoint::min());
  const double guessed =
      std::min(static_cast<double>(sent) * options_.prefix_block_tokens, static_cast<double>(question.prompt_tokens));
  return std::max(static_cast<int>(guessed), tells ? told->tokens : 0);
}

std::shared_ptr<Live> Fleet::by_ring(const Pool& pool, const Candidates& candidates, const Question& question,
                                     std::string& why) const {
  double total = 0, weights = 0;
  for (const auto& live : candidates) {
    total += outstanding(*live);
    weights += std::max(live->config.weight, 1e-9);
  }
  const double size = question.prompt_tokens + question.answer_tokens;
  bool first = true;
  const int member = pool.ring.find(question.prefix, [&](int index) {
    const auto& live = pool.members[static_cast<std::size_t>(index)];
    if (std::ranges::find(candidates, live) == candidates.end()) return false;
    const double share = std::max(live->config.weight, 1e-9) / weights;
    if (within_bound(outstanding(*live), total, size, share, options_.ring_bound)) return true;
    first = false;
    return false;
  });
  if (!first) why = "prefix-ring-spilled";
  return member >= 0 ? pool.members[static_cast<std::size_t>(member)] : least(candidates, outstanding);
}

void Fleet::ended(Live& live, const Breaker::Call& call, const Ended& how, TimePoint now) {
  --live.vitals->running;
  if (how.first_token && how.how == Ended::How::good) {
    const double seconds = std::chrono::duration<double>(*how.first_token).count();
    live.vitals->first_token.sample(seconds, now);
    live.metrics->first_token.observe(seconds);
  }
  if (how.how == Ended::How::good && how.seconds_per_token > 0)
    live.metrics->between_tokens.observe(how.seconds_per_token);
  if (how.overload) live.vitals->limit.overload(now);
  const auto found = pools_.find(live.config.group);
  if (how.how == Ended::How::dropped) {
    live.vitals->breaker.drop(call);
  } else {
    live.vitals->breaker.done(call, how.how == Ended::How::good, how.first_token, now);
    if (found != pools_.end()) found->second.outliers.done(live.config.name, how.how == Ended::How::good, now);
  }
  if (found != pools_.end()) {
    found->second.rate.done(how.work, now);
    found->second.urgent.ended();
    found->second.usual.ended();
    note(found->second, now);
  }
  note(live, now);
}

void Fleet::signal(Live& live, const Signals& signals, TimePoint now) {
  live.vitals->breaker.signal(signals, now);
  live.metrics->outstanding.set(outstanding(live));
  note(live, now);
}

void Fleet::force(Live& live, Breaker::Mode mode, TimePoint now) {
  live.vitals->breaker.force(mode, now);
  note(live, now);
}

void Fleet::turn(TimePoint now) {
  for (auto& [group, pool] : pools_) {
    pool.outliers.turn(now);
    note(pool, now);
    turn(pool, now);
  }
}

void Fleet::turn(Pool& pool, TimePoint now) {
  pool.urgent.turn(now);
  pool.usual.turn(now);
  ConcurrencyLimit::Done all;
  for (const auto& live : pool.members) {
    Vitals& vitals = *live->vitals;
    const ConcurrencyLimit::Done done{.tokens = vitals.tokens,
                                      .first_count = vitals.first_tokens,
                                      .first_seconds = static_cast<double>(vitals.first_microseconds) / 1e6};
    const bool pressed = std::exchange(vitals.pressed, false);
    const double slow = std::chrono::duration<double>(live->config.between_tokens).count();
    if (live->config.adaptive) vitals.limit.turn(now, done, vitals.running, pressed, slow, pool.urgent.seen());
    live->metrics->places.set(places(*live));
    all.first_count += done.first_count;
    all.first_seconds += done.first_seconds;
  }
  const auto count = all.first_count - pool.seen.first_count;
  const double taken = all.first_seconds - pool.seen.first_seconds;
  pool.seen = all;
  if (count <= 0 || taken < 0) return;  // nobody came, or the members are others now
  const double mean = taken / static_cast<double>(count);
  pool.first_token = pool.first_token == 0 ? mean : pool.first_token + (mean - pool.first_token) * 0.2;
}

double Fleet::usual_first_token(const std::string& group) const {
  const auto found = pools_.find(group);
  return found == pools_.end() ? 0 : found->second.first_token;
}

bool Fleet::ejected(const Live& live) const {
  const auto found = pools_.find(live.config.group);
  return found != pools_.end() && found->second.outliers.ejected(live.config.name);
}

bool Fleet::degraded(const std::string& group, TimePoint now, bool trial) {
  const auto found = pools_.find(group);
  if (found == pools_.end()) return false;
  Pool& pool = found->second;
  bool any = false;
  const bool all = std::ranges::all_of(pool.members, [&](const auto& live) {
    if (live->config.trial && !trial) return true;
    any = true;
    const bool out = pool.outliers.ejected(live->config.name) || !live->vitals->breaker.admits(now);
    note(*live, now);
    return out;
  });
  return all && any;
}

double Fleet::work_rate(const std::string& group, TimePoint now) const {
  const auto found = pools_.find(group);
  return found == pools_.end() ? 0 : found->second.rate.per_second(now);
}

void Fleet::note(Live& live, TimePoint now) {
  const auto change = live.vitals->breaker.changed();
  if (!change) return;
  live.metrics->breaker.set(change->state == Breaker::State::open        ? 2
                            : change->state == Breaker::State::half_open ? 1
                                                                         : 0);
  events_.push_back({now, "breaker_" + std::string(name(change->state)), live.config.name, change->why});
}

void Fleet::note(Pool& pool, TimePoint now) {
  for (Outliers::Change& change : pool.outliers.changes())
    events_.push_back({now, change.ejected ? "ejected" : "returned", change.member, std::move(change.why)});
}

std::vector<RouteEvent> Fleet::events() { return std::exchange(events_, {}); }

}  // namespace ashlar::gateway
