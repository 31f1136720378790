// Models that say how good answers are, for the gate `score` of rollouts.
//
// An answer is judged once its client has all of it, on a thread of our own and less urgently than any client's
// request: nobody waits for a judge. What a judge is asked goes the way of every request, limits and budgets included,
// as that of the user kJudgeUser: where they refuse it, it is not asked.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/generator.h"
#include "gateway/rollout/plan.h"
#include "gateway/routing/steering.h"

namespace ashlar::gateway {

inline constexpr const char* kJudgeUser = "rollout-judge";
inline constexpr std::string_view kJudgeRequests = "judge-";  // what their ids begin with

// Of whom an answer is.
struct GradedSide {
  std::string route, version;
  bool canary = false;
};

struct GradersOptions {
  // A judge's word on an answer, 0 to 1. On the graders' thread.
  std::function<void(const GradedSide& side, double score)> scored;
  std::function<TimePoint()> now = Clock::now;
  bool own_thread = true;  // else somebody calls turn(): tests
};

// Any thread.
class Graders {
 public:
  explicit Graders(GradersOptions options);
  // As use(nullptr).
  ~Graders();

  // Who has the judges' models; null: nobody is asked any more, and what is under way is dropped before this returns.
  void use(engine::Generator* generator);

  // Follows the answer of a request that may be judged; null: it may not. `share`: of the route's requests that the
  // version on trial gets now; `draw`: from 0 to below 1, which requests are judged.
  std::shared_ptr<Tap> tap(const RolloutPlan& plan, const std::string& route, const std::string& version, double share,
                           double draw, const engine::Request& request);
  // Of a route: {"asked", "scored", "unclear", "failed", "dropped"}.
  Json figures(const std::string& route) const;

  void turn();

 private:
  class Core;
  class Asking;
  class Follower;
  const std::shared_ptr<Core> core_;  // shared with taps, which may outlive it
};

}  // namespace ashlar::gateway
