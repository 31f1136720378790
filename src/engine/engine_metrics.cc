#include "engine/engine_metrics.h"

#include <algorithm>

namespace ashlar::engine {
namespace {

Labels with(Labels labels, const Labels& more) {
  labels.insert(labels.end(), more.begin(), more.end());
  return labels;
}

constexpr const char* kSuccess = "vllm:request_success_total";
constexpr const char* kSuccessHelp = "Requests that ended, by the reason of the answer that ended last.";

}  // namespace

EngineMetrics::EngineMetrics(const std::string& model, Labels cache)
    : ModelMetrics(model, "0"),
      cache_config("vllm:cache_config_info", "The KV cache's configuration; always 1.", with(labels, cache)),
      success_stop(kSuccess, kSuccessHelp, with(labels, {{"finished_reason", "stop"}})),
      success_length(kSuccess, kSuccessHelp, with(labels, {{"finished_reason", "length"}})),
      success_abort(kSuccess, kSuccessHelp, with(labels, {{"finished_reason", "abort"}})) {
  cache_config.set(1);
}

void EngineMetrics::request_done(const Job& job, Clock::time_point now, int answer_tokens) {
  (job.reason == FinishReason::length ? success_length : success_stop).add();
  const Clock::time_point began = job.began.value_or(now), first = job.first_token.value_or(now);
  e2e.observe(seconds(now - job.arrived));
  inference_time.observe(seconds(now - began));
  prefill_time.observe(seconds(first - began));
  decode_time.observe(seconds(now - first));
  request_prompt.observe(job.prompt_tokens);
  request_generation.observe(answer_tokens);
  int longest = 0;
  for (const auto& choice : job.choices) longest = std::max(longest, choice->answer.tokens());
  request_longest.observe(longest);
  request_n.observe(static_cast<double>(job.choices.size()));
  request_max_tokens.observe(job.max_tokens);
}

}  // namespace ashlar::engine
