// How much anybody may ask: reserves the most that a request can use and cost before it runs, and settles to what it
// truly did. All counting is done by store::Counters, atomically; here it is decided what is counted.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gateway/limits/known_rules.h"
#include "gateway/limits/rules.h"
#include "gateway/limits/running.h"
#include "store/counters.h"

namespace ashlar::gateway {

// What `x-ratelimit-*` tell: of all limits of requests, and of tokens, the one that is nearest to its end.
struct RateNumbers {
  std::optional<store::Standing> requests, tokens;
};
// {"x-ratelimit-limit-requests", "1000"}, {"x-ratelimit-reset-tokens", "6m0s"}, ...
std::vector<std::pair<std::string, std::string>> rate_headers(const RateNumbers& numbers);

// Why a request may not run.
struct LimitRefusal {
  // rate: HTTP 429 rate_limit_exceeded. quota: a budget, 429 insufficient_quota. too_large: it fits no limit ever, 400.
  // unavailable: the counts cannot be reached and it costs money, 503.
  enum class Kind { rate, quota, too_large, unavailable };
  Kind kind = Kind::rate;
  Error error;                               // exhausted, exhausted, invalid, unavailable; a sentence for the client
  std::chrono::milliseconds retry_after{0};  // 0: waiting does not help
  RateNumbers numbers;
};
// OpenAI's `code`: "rate_limit_exceeded", "insufficient_quota", "" for the others.
std::string_view reason(LimitRefusal::Kind kind);

// A budget has reached one of the shares that its rule names: once for each share and window, whatever the number of
// replicas that share the counters.
struct BudgetAlert {
  std::string limit;                    // the rule's name
  std::string who;                      // "team 'search'"
  int percent = 0;                      // which of the rule's alerts
  std::int64_t used = 0, capacity = 0;  // nano-dollars, without what is only reserved if nothing runs
  bool soft = false;                    // it refuses nobody
};

class LimitsWorker;

class Limits {
 public:
  struct Options {
    store::CounterClock clock = store::machine_instant;  // for prices' dates
    // On a thread of ours; must not call back into Limits.
    std::function<void(const BudgetAlert&)> on_alert;
    // An answer whose length nobody stated gets what is left of budgets and windows, but not less than this.
    std::int64_t least_answer = 256;
  };

  // What is asked for.
  struct Ask {
    Subject subject;
    std::string model;     // as limits know it
    std::string asked_as;  // the name in the request, whose price counts where the model has none
    std::int64_t prompt_tokens = 0;
    std::int64_t max_tokens = -1;  // for each answer; -1: not stated
    std::int64_t room = 0;         // the most that the context leaves for an answer, where not stated
    int answers = 1;
  };

  // A request that may run. Settled once; where it dies unsettled, it is released: as if it had never been. It must die
  // before its Limits. One thread at a time.
  class Admission {
   public:
    Admission(Admission&& other) noexcept;
    Admission& operator=(Admission&&) = delete;
    ~Admission() { release(); }

    const std::string& id() const { return running_->id; }
    std::int64_t max_tokens() const { return max_tokens_; }       // that each answer may have
    std::int64_t reserved() const { return running_->reserved; }  // nano-dollars
    const RateNumbers& numbers() const { return numbers_; }
    const std::optional<Price>& price() const { return running_->price; }
    const std::vector<Measure>& measures() const { return running_->measures; }  // of each charge
    // By the prices of when it was admitted; nano-dollars.
    std::int64_t cost(const TokenUse& use) const { return running_->cost(use); }
    // Where its record is kept until it is in the ledger; so long the request is known here. Before it runs.
    void keep_in(const std::shared_ptr<OpenUsage>& open);
    // To what was used. Never waits. The first call counts.
    void settle(const TokenUse& use);
    // As if it had never been, if it is not settled.
    void release();

   private:
    friend class Limits;
    Admission() = default;

    Limits* limits_ = nullptr;  // null: it is settled
    std::shared_ptr<Running> running_;
    RunningRequests::Pass pass_;
    std::int64_t max_tokens_ = 0;
    RateNumbers numbers_;
  };

  // `counters` must outlive it. invalid: a rule that cannot be.
  static Result<std::unique_ptr<Limits>> create(LimitsConfig config, store::Counters& counters, Options options);
  ~Limits();

  // What was spent of the budgets of `fresh` by requests that began before `before_ms` and are not among `running()`,
  // which is to be asked after all records that wait were looked at.
  using Ledger = std::function<Result<std::vector<store::Spent>>(
      const LimitsConfig& fresh, std::int64_t before_ms, const std::function<std::vector<std::string>()>& running)>;

  // Takes the place of the configuration, for requests that come; those that run are settled as they were reserved.
  // A budget or a count of seats that is new counts those that run too, with what they have reserved, and a budget what
  // `ledger` says was spent of its window, exactly once each; who asks meanwhile waits. invalid, unavailable, errors of
  // the ledger: the old one stays. Any thread.
  Status apply(LimitsConfig config, const Ledger& ledger = {});

  // There is nothing that limits anybody now.
  bool idle() const;
  // What a request may cost matters: something limits it now, or it has a price and a budget may come while it runs.
  bool measures() const;

  // Any thread. May wait for the counters where they are far away, for as long as their timeout.
  std::expected<Admission, LimitRefusal> admit(const Ask& ask);
  // Where somebody stands who asks for nothing now.
  Result<RateNumbers> numbers(const Subject& subject, const std::string& model);

 private:
  struct Asked;
  class Changeover;

  Limits(store::Counters& counters, Options options);
  std::expected<Admission, LimitRefusal> admit(const Ask& ask, const std::shared_ptr<const LimitsConfig>& config);
  // Among those that run; false: the configuration has changed meanwhile.
  bool enter(Admission& admission, const std::shared_ptr<const LimitsConfig>& config);
  void end(Running& request, const TokenUse* use);  // null: released
  void end(const Running::Also& also, const Running& request, const TokenUse* use);
  std::expected<Admission, LimitRefusal> refuse(const Asked& asked, const store::Verdict& verdict) const;
  // How many tokens an answer may have for everything to fit, by a refusal; as many as before: that would not help.
  std::int64_t shorter(const Asked& asked, const store::Verdict& verdict) const;
  std::shared_ptr<const LimitsConfig> config() const;  // waits while it changes

  store::Counters& counters_;
  const Options options_;
  std::mutex applying_;  // one at a time; taken before mutex_
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::shared_ptr<const LimitsConfig> config_;  // GUARDED_BY(mutex_)
  KnownRules known_;
  bool changing_ = false;  // GUARDED_BY(mutex_)
  const std::shared_ptr<RunningRequests> running_ = std::make_shared<RunningRequests>();
  std::unique_ptr<LimitsWorker> worker_;
};

}  // namespace ashlar::gateway
