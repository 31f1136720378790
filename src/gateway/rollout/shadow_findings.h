// What a shadow was found to do, beside what the clients got.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/json_full.h"
#include "base/metrics.h"
#include "base/result.h"
#include "engine/generator.h"
#include "gateway/rollout/answer_diff.h"
#include "gateway/rollout/plan.h"
#include "gateway/rollout/samples.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

// An answer as it came: of the first choice, up to 64 KiB of its text. Not thread-safe.
struct ShadowAnswer {
  TimePoint began{};
  std::optional<TimePoint> first;
  TimePoint last{};
  int tokens = 0;
  engine::Usage usage;
  std::string text;
  std::string finish;
  std::optional<Error> error;
  bool over = false;  // Finished or Failed came

  void take(const engine::Event& event, TimePoint now);
  std::optional<double> first_token_seconds() const {
    if (!first || error) return std::nullopt;
    return std::chrono::duration<double>(*first - began).count();
  }
  std::optional<double> seconds_per_token() const {
    if (!first || error || tokens < 2) return std::nullopt;
    return std::chrono::duration<double>(last - *first).count() / (tokens - 1);
  }

 private:
  void add(std::string_view more);
};

struct ShadowMetrics {
  ShadowMetrics(const std::string& route, const std::string& model)
      : compared(kRequests, kHelp, {{"route", route}, {"model", model}, {"outcome", "answered"}}),
        failed(kRequests, kHelp, {{"route", route}, {"model", model}, {"outcome", "failed"}}),
        dropped(kRequests, kHelp, {{"route", route}, {"model", model}, {"outcome", "dropped"}}),
        prompt(kTokens, kTokensHelp, {{"route", route}, {"model", model}, {"kind", "prompt"}}),
        completion(kTokens, kTokensHelp, {{"route", route}, {"model", model}, {"kind", "completion"}}) {}
  static constexpr const char* kRequests = "gateway_shadow_requests_total";
  static constexpr const char* kHelp = "Copies of requests for a shadow, by how they ended.";
  static constexpr const char* kTokens = "gateway_shadow_tokens_total";
  static constexpr const char* kTokensHelp = "Tokens of shadows' answers, which no client pays.";
  Counter compared, failed, dropped, prompt, completion;
};

// Of one route. Any thread.
class ShadowFindings {
 public:
  ShadowFindings(std::string route, ShadowPlan plan)
      : route_(std::move(route)), plan_(std::move(plan)), metrics_(route_, plan_.to) {}

  const ShadowPlan& plan() const { return plan_; }
  // A place for a copy; false: all are taken.
  bool take_place();
  void give_place() { under_way_.fetch_sub(1); }

  void seen();
  void hidden();  // marked data that the shadow may not see
  void left();    // the client did, before its answer's end
  // Both answers are over.
  void add(const engine::Request& request, const ShadowAnswer& client, const ShadowAnswer& shadow);
  Json json() const;

 private:
  struct Side {
    std::int64_t failed = 0;
    Moments length;  // tokens
    Latencies first_token, between_tokens;
    void add(const ShadowAnswer& answer);
    Json json() const;
  };
  void compare(const engine::Request& request, const ShadowAnswer& client, const ShadowAnswer& shadow,
               const AnswerDiff& diff);

  const std::string route_;
  const ShadowPlan plan_;
  ShadowMetrics metrics_;
  std::atomic<int> under_way_{0};

  mutable std::mutex mutex_;
  std::int64_t seen_ = 0, copied_ = 0, busy_ = 0, hidden_ = 0, left_ = 0, ended_ = 0;
  std::int64_t compared_ = 0, same_text_ = 0, same_finish_ = 0, greedy_ = 0, greedy_same_ = 0;
  std::int64_t only_client_failed_ = 0, only_shadow_failed_ = 0, both_failed_ = 0;
  std::int64_t prompt_tokens_ = 0, completion_tokens_ = 0;
  Side client_, shadow_;
  Moments agreement_, prefix_;
  std::deque<Json> examples_;
};

}  // namespace ashlar::gateway
