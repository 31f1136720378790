#include "gateway/rollout/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

using State = GateVerdict::State;

// How sure it is that the stable one's true figure is not above what it is taken for.
constexpr double kStableZ = 3;
constexpr std::int64_t kFewStable = 10;
// Without figures of the stable one: half the requests must not fail.
constexpr double kLimitWithoutStable = 0.5;
constexpr std::int64_t kFewestTimes = 20;
// What nobody feels is no regression, whatever its ratio.
constexpr double kFirstTokenSlack = 0.010, kBetweenTokensSlack = 0.001;  // seconds
constexpr double kScoreZ = 3.3;
// Of a mean of few equal scores the spread is not 0.
constexpr double kLeastScoreVariance = 0.0025;

struct Sides {
  const RolloutPlan& plan;
  const Samples& canary;
  const Samples& stable;
  bool more_to_come;
  bool enough() const { return canary.requests >= plan.minimum_requests; }
};

GateVerdict judge_errors(const Sides& sides, double more) {
  const auto& [plan, canary, stable, more_to_come] = sides;
  const bool known = stable.requests >= kFewStable;
  const double limit = stable.error_rate() + more;
  const double sure = known ? std::min(1.0, upper_share(stable.errors, stable.requests, kStableZ) + more)
                            : std::max(kLimitWithoutStable, more);
  GateVerdict out{.gate = "error_rate", .canary = canary.error_rate(), .stable = stable.error_rate(), .limit = limit};
  out.why = fmt::format(
      "{} of {} requests failed ({:.2f} %), against {} of {} ({:.2f} %) of the stable one; the limit is {:.2f} %",
      canary.errors, canary.requests, 100 * out.canary, stable.errors, stable.requests, 100 * out.stable, 100 * limit);
  if (evidence_above(canary.errors, canary.requests, sure) >= 1 / kFalseAlarm)
    out.state = State::fails;
  else if (sides.enough() && (known ? out.canary <= limit : !more_to_come && out.canary <= sure))
    out.state = State::passes;
  return out;
}

// Under the limit at most 1 - quantile of the answers are slower than `ratio` times the stable one's quantile.
GateVerdict judge_times(const Sides& sides, const LatencyGate& gate) {
  const auto& [plan, canary, stable, more_to_come] = sides;
  const Latencies& mine = gate.first_token ? canary.first_token : canary.between_tokens;
  const Latencies& theirs = gate.first_token ? stable.first_token : stable.between_tokens;
  const double slack = gate.first_token ? kFirstTokenSlack : kBetweenTokensSlack;
  const auto limit_of = [&](double stable_seconds) {
    return std::max(gate.ratio * stable_seconds, stable_seconds + slack);
  };
  GateVerdict out{.gate = gate.name, .canary = mine.quantile(gate.quantile), .stable = theirs.quantile(gate.quantile)};
  out.limit = limit_of(out.stable);
  out.why = fmt::format("{:.4g} s over {} answers, against {:.4g} s over {} of the stable one; the limit is {:.4g} s",
                        out.canary, mine.count(), out.stable, theirs.count(), out.limit);
  if (theirs.count() < kFewestTimes) {
    // Answers of a single token have no time between them: then there is nothing to compare.
    if (sides.enough() && (!more_to_come || stable.requests >= 4 * kFewestTimes)) out.state = State::passes;
    return out;
  }
  // The stable quantile itself is but a sample's: its upper end is asked.
  const double n = static_cast<double>(theirs.count()), q = gate.quantile;
  const double upper = theirs.quantile(std::min(1.0, q + kStableZ * std::sqrt(q * (1 - q) / n)));
  if (evidence_above(mine.above(limit_of(upper)), mine.count(), 1 - q) >= 1 / kFalseAlarm)
    out.state = State::fails;
  else if (mine.count() < std::min<std::int64_t>(plan.minimum_requests, kFewestTimes))
    out.state = sides.enough() && canary.requests >= 4 * kFewestTimes ? State::passes : State::undecided;
  else if (out.canary <= out.limit)
    out.state = State::passes;
  return out;
}

GateVerdict judge_scores(const Sides& sides, double less) {
  const auto& [plan, canary, stable, unused] = sides;
  GateVerdict out{.gate = "score", .canary = canary.scores.mean(), .stable = stable.scores.mean()};
  out.limit = out.stable - less;
  out.why = fmt::format("{:.3f} over {} scores, against {:.3f} over {} of the stable one; the limit is {:.3f}",
                        out.canary, canary.scores.count(), out.stable, stable.scores.count(), out.limit);
  if (std::min(canary.scores.count(), stable.scores.count()) < plan.minimum_scores) return out;
  const auto spread = [](const Moments& of) {
    return std::max(of.variance(), kLeastScoreVariance) / static_cast<double>(of.count());
  };
  const double most = out.canary - out.stable + kScoreZ * std::sqrt(spread(canary.scores) + spread(stable.scores));
  if (most < -less)
    out.state = State::fails;
  else if (out.canary >= out.limit)
    out.state = State::passes;
  return out;
}

}  // namespace

double upper_share(std::int64_t hits, std::int64_t tries, double z) {
  if (tries <= 0) return 1;
  const double n = static_cast<double>(tries), p = static_cast<double>(hits) / n;
  const double middle = p + z * z / (2 * n), half = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return std::min(1.0, (middle + half) / (1 + z * z / n));
}

double evidence_above(std::int64_t hits, std::int64_t tries, double at_most) {
  if (hits <= 0 || at_most >= 1) return 0;
  constexpr std::array kBets = {0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9};  // of the way from the limit to all
  const double low = std::max(at_most, 1e-6), missed = static_cast<double>(tries - hits);
  double sum = 0;
  for (const double bet : kBets) {
    const double share = low + (1 - low) * bet;
    const double log_ratio =
        static_cast<double>(hits) * std::log(share / low) + missed * std::log((1 - share) / (1 - low));
    sum += std::exp(std::min(log_ratio, 700.0)) / static_cast<double>(kBets.size());
  }
  return sum;
}

std::vector<GateVerdict> judge(const RolloutPlan& plan, const Samples& canary, const Samples& stable,
                               bool more_to_come) {
  const Sides sides{plan, canary, stable, more_to_come};
  std::vector<GateVerdict> out;
  if (plan.gates.error_rate) out.push_back(judge_errors(sides, *plan.gates.error_rate));
  for (const LatencyGate& gate : plan.gates.latencies) out.push_back(judge_times(sides, gate));
  if (plan.gates.score) out.push_back(judge_scores(sides, *plan.gates.score));
  return out;
}

Json json_of(const GateVerdict& verdict) {
  const char* state = verdict.state == State::fails ? "fails" : verdict.state == State::passes ? "passes" : "undecided";
  return {{"gate", verdict.gate},     {"state", state},         {"canary", verdict.canary},
          {"stable", verdict.stable}, {"limit", verdict.limit}, {"why", verdict.why}};
}

}  // namespace ashlar::gateway
