// Versions on trial: each gets a share of its route's requests that grows step by step
// while it does no worse than the stable one, and none at all from the moment that it does.
//
//   idle ── start ──> running ── last step held ──> promoted | waiting ── promote ──> promoted
//                        │  ^
//                     pause resume            any of them ── a gate fails, or rollback ──> rolled_back
//
// A version that was rolled back stays so: reading the configuration again does not begin it anew, a start() does,
// or another `version`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/metrics.h"
#include "base/result.h"
#include "gateway/events/event_log.h"
#include "gateway/rollout/answers.h"
#include "gateway/rollout/graders.h"
#include "gateway/rollout/judge.h"
#include "gateway/rollout/plan.h"
#include "gateway/rollout/rollout_store.h"
#include "gateway/rollout/samples.h"
#include "gateway/routing/steering.h"
#include "store/database.h"

namespace ashlar::gateway {

class Shadows;

struct RolloutsOptions {
  std::function<TimePoint()> now = Clock::now;
  std::function<std::int64_t()> utc_ms;   // null: the system's
  bool own_thread = true;                 // else somebody calls turn(), and that of the graders: tests
  std::chrono::milliseconds every{200};   // how often a step is considered
  std::chrono::milliseconds sync{5'000};  // how often what other servers decided is read
  EventLog* events = nullptr;             // outlive it, as the next two do
  store::Database* database = nullptr;    // null: a restart forgets
  Shadows* shadows = nullptr;             // null: none
  std::uint64_t seed = 0;                 // of who goes where without a name; 0: drawn
};

enum class RolloutState : std::uint8_t { idle, running, paused, waiting, promoted, rolled_back };
std::string_view name(RolloutState state);

// Any thread. Requests take one lock for a moment; the database is written by the thread of turn() and of commands.
class Rollouts final : public Steering {
 public:
  // As Database: what is kept cannot be read.
  static Result<std::unique_ptr<Rollouts>> open(RolloutsOptions options);
  ~Rollouts() override;

  // Of every route that has one: an array of what show() gives, without the figures of the gates.
  Json list() const;
  // not_found: the route has no rollout.
  Result<Json> show(const std::string& route) const;
  // From its first step, whatever was before. not_found.
  Status start(const std::string& route, const std::string& actor);
  // The share stays as it is; the gates stand. invalid: it is not running.
  Status pause(const std::string& route, const std::string& actor);
  Status resume(const std::string& route, const std::string& actor);
  // All requests at once. invalid: it is promoted already.
  Status promote(const std::string& route, const std::string& actor);
  // None from now on; what runs there ends there.
  Status rollback(const std::string& route, const std::string& why, const std::string& actor);
  // What a judge says of an answer, 0 to 1. invalid: another number, or it is not under way.
  Status score(const std::string& route, bool canary, double score);
  // The same of an answer that a client has by this name. not_found: none of the last day that a trial of `route` was
  // on; invalid: somebody like this said it already.
  Status score_answer(const std::string& route, const std::string& answer, double score);
  // What the client says who got it. False: no trial was on then, it is too long ago, it was somebody else's, or it was
  // said before. invalid: another number.
  Result<bool> feedback(const std::string& answer, double score, const std::string& tenant, const engine::Sender& who);
  // Who asks judges; nobody is asked before its use().
  Graders& graders() { return *graders_; }

  std::optional<Split> split(const std::string& group, const engine::Request& request) override;
  bool takes(const std::string& group) const override;
  void ended(const AttemptEnd& end) override;
  std::shared_ptr<Tap> tap(const std::string& group, const engine::Request& request) override;
  void set_groups(const std::vector<Group>& groups) override;

  // Considers steps, writes what changed. Without a thread of its own, call it when time has passed.
  void turn();

 private:
  struct Metrics {
    explicit Metrics(const std::string& route);
    Gauge share, state;
    Counter rollbacks;
  };
  struct Trial {
    std::string route, version;  // the version as it is remembered
    RolloutPlan plan;
    RolloutState state = RolloutState::idle;
    std::size_t step = 0;
    TimePoint since{};          // of the step
    std::int64_t since_ms = 0;  // UTC
    std::string why;            // of the state
    std::vector<GateVerdict> verdicts;
    Samples canary, stable;  // of the step
    Samples baseline;        // the stable one's before the step
    std::int64_t revision = 0;
    bool dirty = false;
    // Of requests that have a key and no other name: so many, and so many of them sent to the trial, in this step.
    std::int64_t by_key = 0, by_key_chosen = 0;
    std::unordered_map<std::uint64_t, int> refusals;  // of each sender, in this step
    std::shared_ptr<Metrics> metrics;
    double share() const;
    bool watched() const;  // its gates stand
  };

  explicit Rollouts(RolloutsOptions options);
  std::int64_t utc_ms() const;
  double draw();
  bool chosen(Trial& trial, const engine::Request& request, double share);
  bool counts(Trial& trial, const AttemptEnd& end);
  void begin(Trial& trial);
  void enter(Trial& trial, RolloutState state, std::string why);
  void next_step(Trial& trial);
  void judge_now(Trial& trial);
  void roll_back(Trial& trial, std::string why, const std::string& actor);
  void consider(Trial& trial);
  void tell(const Trial& trial, std::string_view what, Severity severity, std::string message,
            const std::string& actor = "");
  void take(Trial& trial, const RolloutRow& row);
  bool add_score(const std::string& route, const std::string& version, bool canary, double score);  // under the lock
  RolloutRow row_of(const Trial& trial) const;
  std::shared_ptr<Tap> judged_tap(const std::string& group, const engine::Request& request);
  Json json_of(const Trial& trial, bool all) const;
  Status command(const std::string& route, const std::function<Status(Trial&)>& what);
  void settle();
  void read_others();
  void work();

  const RolloutsOptions options_;
  std::mutex settling_;  // taken before mutex_; the database is asked under it
  mutable std::mutex mutex_;
  std::condition_variable due_;
  std::atomic<bool> any_{false};
  std::map<std::string, Trial> trials_;
  std::map<std::string, RolloutRow> rows_;  // what is kept, of all routes that ever had one
  RolloutOutcomes outcomes_;
  KeptAnswers answers_;
  std::vector<OperatorEvent> events_;
  std::uint64_t drawn_ = 0;
  std::optional<TimePoint> synced_;  // under settling_
  bool stopping_ = false;
  std::thread thread_;
  std::unique_ptr<Graders> graders_;  // last: its thread calls us
};

}  // namespace ashlar::gateway
