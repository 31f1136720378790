#include "gateway/rollout/rollouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>

#include "base/threads.h"
#include "gateway/rollout/rollout_words.h"
#include "gateway/rollout/shadow.h"
#include "gateway/routing/ring.h"

namespace ashlar::gateway {
namespace {

using enum RolloutState;

// A key may be a whole application: where it alone names the sender, its side holds only as long as the trial's share
// is off by no more than so many requests.
constexpr std::int64_t kKeySlack = 50;
// Requests of one sender that the deployment found fault with and that count, in a step: a client that is wrong all the
// time says nothing of the version.
constexpr int kMostRefusals = 3;
constexpr std::int64_t kJudged = 16;
constexpr std::size_t kMostSenders = 10'000;

// Spreads the bits of a hash evenly (splitmix64's finalizer), as a number from 0 to below 1.
double unit(std::uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  bits ^= bits >> 31;
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Who stays on one side: the session, or the user, or the key.
struct Identity {
  std::string text;  // "": nobody in particular
  bool by_key = false;
};

Identity identity_of(const engine::Request& request) {
  const engine::Sender& sender = request.sender;
  if (!sender.session.empty()) return {"s\n" + request.tenant + '\n' + sender.session};
  if (!sender.user.empty()) return {"u\n" + request.tenant + '\n' + sender.user};
  if (!sender.key.empty()) return {.text = "k\n" + sender.key, .by_key = true};
  return {};
}

Error not_a_score() { return {Code::invalid, "a score is a number from 0 to 1"}; }

// Two who follow the same answer.
class BothTaps final : public Tap {
 public:
  BothTaps(std::shared_ptr<Tap> one, std::shared_ptr<Tap> two) : one_(std::move(one)), two_(std::move(two)) {}
  void started() override {
    one_->started();
    two_->started();
  }
  void said(const engine::Event& event) override {
    one_->said(event);
    two_->said(event);
  }
  void first(const std::string& deployment, bool good) override {
    one_->first(deployment, good);
    two_->first(deployment, good);
  }

 private:
  const std::shared_ptr<Tap> one_, two_;
};

}  // namespace

Rollouts::Metrics::Metrics(const std::string& route)
    : share("gateway_rollout_share", "Share of the route's requests that its version on trial gets.",
            {{"route", route}}),
      state("gateway_rollout_state", "0 idle, 1 running, 2 paused, 3 waiting, 4 promoted, 5 rolled back.",
            {{"route", route}}),
      rollbacks("gateway_rollout_rollbacks_total", "Versions that were rolled back.", {{"route", route}}) {}

double Rollouts::Trial::share() const {
  switch (state) {
    case idle:
    case rolled_back:
      return 0;
    case running:
    case paused:
    case waiting:
      return plan.steps[step];
    case promoted:
      return 1;
  }
  return 0;
}

bool Rollouts::Trial::watched() const { return state == running || state == paused || state == waiting; }

Rollouts::Rollouts(RolloutsOptions options) : options_(std::move(options)) {
  drawn_ = options_.seed != 0 ? options_.seed : std::random_device{}();
}

Result<std::unique_ptr<Rollouts>> Rollouts::open(RolloutsOptions options) {
  std::unique_ptr<Rollouts> out(new Rollouts(std::move(options)));
  if (store::Database* const database = out->options_.database; database != nullptr) {
    TRY(store::migrate(*database, std::span(&rollout_schema(), 1)));
    for (RolloutRow& row : TRY(read_rollouts(*database))) out->rows_[row.route] = std::move(row);
    out->outcomes_ = TRY(read_rollout_outcomes(*database));
  }
  GradersOptions graders{.scored =
                             [raw = out.get()](const GradedSide& side, double score) {
                               const std::lock_guard lock(raw->mutex_);
                               raw->add_score(side.route, side.version, side.canary, score);
                             },
                         .now = out->options_.now,
                         .own_thread = out->options_.own_thread};
  out->graders_ = std::make_unique<Graders>(std::move(graders));
  if (out->options_.own_thread) out->thread_ = std::thread([raw = out.get()] { raw->work(); });
  return out;
}

Rollouts::~Rollouts() {
  if (graders_ != nullptr) graders_->use(nullptr);  // it calls us no more
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    due_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  settle();
}

std::int64_t Rollouts::utc_ms() const {
  if (options_.utc_ms) return options_.utc_ms();
  using std::chrono::duration_cast, std::chrono::milliseconds, std::chrono::system_clock;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

double Rollouts::draw() { return unit(drawn_ += 0x9e3779b97f4a7c15ull); }

// Requests.

std::optional<Split> Rollouts::split(const std::string& group, const engine::Request& request) {
  if (!any_.load(std::memory_order_acquire)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(group);
  if (found == trials_.end()) return std::nullopt;
  Trial& trial = found->second;
  return Split{.canary = trial.plan.to, .chosen = chosen(trial, request, trial.share()), .version = trial.version};
}

bool Rollouts::takes(const std::string& group) const {
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(group);
  return found != trials_.end() && found->second.share() > 0;
}

// A sender's place is the same at every step, so that shares that grow only add to those who are in.
bool Rollouts::chosen(Trial& trial, const engine::Request& request, double share) {
  if (share <= 0) return false;
  if (share >= 1) return true;
  const Identity who = trial.plan.sticky ? identity_of(request) : Identity{};
  if (who.text.empty()) return draw() < share;
  bool in = unit(stable_hash(who.text, stable_hash(trial.route + '\n' + trial.version))) < share;
  if (!who.by_key) return in;
  const double over = static_cast<double>(trial.by_key_chosen) - share * static_cast<double>(trial.by_key);
  if (in && over > kKeySlack) in = false;
  if (!in && over < -kKeySlack) in = draw() < share;
  ++trial.by_key;
  trial.by_key_chosen += in ? 1 : 0;
  return in;
}

bool Rollouts::counts(Trial& trial, const AttemptEnd& end) {
  if (end.how != AttemptEnd::How::refused) return true;
  const Identity who = identity_of(end.request);
  if (who.text.empty()) return true;
  const std::uint64_t hash = stable_hash(who.text);
  if (trial.refusals.size() >= kMostSenders && !trial.refusals.contains(hash)) return false;
  return ++trial.refusals[hash] <= kMostRefusals;
}

void Rollouts::ended(const AttemptEnd& end) {
  if (!any_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  const auto found = trials_.find(end.group);
  if (found == trials_.end() || !found->second.watched()) return;
  Trial& trial = found->second;
  if (!counts(trial, end)) return;
  const bool canary = end.deployment == trial.plan.to;
  Samples& side = canary ? trial.canary : trial.stable;
  ++side.requests;
  if (end.how != AttemptEnd::How::good)
    ++side.errors;
  else if (end.first_token)
    side.first_token.add(std::chrono::duration<double>(*end.first_token).count());
  if (end.seconds_per_token > 0) side.between_tokens.add(end.seconds_per_token);
  if (end.how == AttemptEnd::How::good && trial.plan.gates.score && end.request.delivery != nullptr)
    answers_.keep(end.request.delivery->name, {.route = trial.route,
                                               .version = trial.version,
                                               .canary = canary,
                                               .tenant = end.request.tenant,
                                               .key = end.request.sender.key,
                                               .user = end.request.sender.user,
                                               .at = options_.now()});
  // Here, not when the thread comes to it: each request more is one too many. Good ones change little.
  if (canary && (end.how != AttemptEnd::How::good || trial.canary.requests % kJudged == 0)) judge_now(trial);
}

std::shared_ptr<Tap> Rollouts::tap(const std::string& group, const engine::Request& request) {
  auto shadow = options_.shadows != nullptr ? options_.shadows->tap(group, request) : nullptr;
  auto judged = judged_tap(group, request);
  if (!shadow || !judged) return shadow ? shadow : judged;
  return std::make_shared<BothTaps>(std::move(shadow), std::move(judged));
}

std::shared_ptr<Tap> Rollouts::judged_tap(const std::string& group, const engine::Request& request) {
  if (!any_.load(std::memory_order_acquire)) return nullptr;
  RolloutPlan plan;
  std::string version;
  double share = 0, drawn = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = trials_.find(group);
    if (found == trials_.end() || !found->second.watched() || !found->second.plan.judge) return nullptr;
    plan.to = found->second.plan.to;
    plan.judge = found->second.plan.judge;
    version = found->second.version;
    share = found->second.share();
    drawn = draw();
  }
  return graders_->tap(plan, group, version, share, drawn, request);
}

// Scores.

bool Rollouts::add_score(const std::string& route, const std::string& version, bool canary, double score) {
  const auto found = trials_.find(route);
  if (found == trials_.end() || found->second.version != version || !found->second.watched()) return false;
  Trial& trial = found->second;
  (canary ? trial.canary : trial.stable).scores.add(score);
  if (!canary) trial.baseline.scores = trial.stable.scores;
  judge_now(trial);
  return true;
}

Status Rollouts::score(const std::string& route, bool canary, double score) {
  if (!(score >= 0 && score <= 1)) return not_a_score();
  return command(route, [&](Trial& trial) -> Status {
    if (!add_score(route, trial.version, canary, score))
      return Error{Code::invalid,
                   fmt::format("the rollout of '{}' is not under way: it is {}", route, name(trial.state))};
    return {};
  });
}

Status Rollouts::score_answer(const std::string& route, const std::string& answer, double score) {
  if (!(score >= 0 && score <= 1)) return not_a_score();
  return command(route, [&](Trial& trial) -> Status {
    KeptAnswer* const known = answers_.find(answer, options_.now());
    if (known == nullptr || known->route != route)
      return Error{Code::not_found,
                   fmt::format("no answer of '{}' in the last day is called '{}' and took part in a trial that has a "
                               "gate for scores",
                               route, answer.substr(0, 100))};
    if (known->by_judge) return Error{Code::invalid, "this answer has its score already"};
    if (!add_score(route, known->version, known->canary, score))
      return Error{Code::invalid,
                   fmt::format("the trial of '{}' that the answer took part in is over: the rollout is {}", route,
                               name(trial.state))};
    known->by_judge = true;
    return {};
  });
}

Result<bool> Rollouts::feedback(const std::string& answer, double score, const std::string& tenant,
                                const engine::Sender& who) {
  if (!(score >= 0 && score <= 1)) return std::unexpected(not_a_score());
  const std::lock_guard lock(mutex_);
  KeptAnswer* const known = answers_.find(answer, options_.now());
  if (known == nullptr || known->by_client || known->tenant != tenant || known->key != who.key ||
      known->user != who.user)
    return false;
  known->by_client = add_score(known->route, known->version, known->canary, score);
  return known->by_client;
}

}  // namespace ashlar::gateway
