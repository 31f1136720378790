// What the engine measures, under our names and under those that dashboards for
// vLLM read. One set for each loaded model.
#pragma once

#include <array>
#include <string>

#include "engine/job.h"
#include "engine/model_metrics.h"

namespace ashlar::engine {

namespace buckets {
inline constexpr std::array kFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                           1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
inline constexpr std::array kPerToken = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                                         0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
inline constexpr std::array kRequest = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                        30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
inline constexpr std::array kIteration = {1.0,   8.0,    16.0,   32.0,   64.0,   128.0,  256.0,
                                          512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0};
inline constexpr std::array kTokens = {1.0,    2.0,    5.0,    10.0,    20.0,    50.0,    100.0,    200.0,   500.0,
                                       1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0, 200000.0};
inline constexpr std::array kChoices = {1.0, 2.0, 5.0, 10.0, 20.0};
inline constexpr std::array kStep = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02,
                                     0.05,   0.1,    0.2,    0.5,   1.0,   2.0,   5.0};
}  // namespace buckets

// The engine thread moves them, but for `refused`.
struct EngineMetrics : ModelMetrics {
  // `cache`: what cache_config_info says besides the model's name.
  EngineMetrics(const std::string& model, Labels cache);

  // When a request has ended well.
  void request_done(const Job& job, Clock::time_point now, int answer_tokens);

  Counter steps{"engine_steps_total", "Forward passes.", labels};
  Counter failed_steps{"engine_step_failures_total", "Forward passes that ended in an internal error.", labels};
  Histogram step_seconds{"engine_step_seconds", "Time of one forward pass with its sampling.", buckets::kStep, labels};
  Histogram overhead_seconds{"engine_step_overhead_seconds", "Time of one step outside the forward pass and sampling.",
                             buckets::kStep, labels};
  Gauge cached_blocks{"engine_kv_cached_blocks", "KV blocks that a prompt with the same beginning can use.", labels};
  Counter refused{"engine_refused_total", "Requests refused at admission: queue full, overloaded or draining.", labels};
  Counter failed{"engine_failed_total", "Requests that ended in an error.", labels};

  Gauge running{"vllm:num_requests_running", "Answers in the running batch.", labels};
  Gauge waiting{"vllm:num_requests_waiting", "Answers waiting for their turn.", labels};
  Gauge kv_used{"vllm:kv_cache_usage_perc", "Share of KV blocks held by running answers; 1 is all.", labels};
  Gauge gpu_kv_used{"vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc, under its older name.", labels};
  Gauge cache_config;
  Counter generation_tokens{"vllm:generation_tokens_total", "Generated tokens.", labels};
  Counter preemptions{"vllm:num_preemptions_total", "Answers that gave their blocks back and wait to recompute.",
                      labels};
  Counter prefix_queries{"vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", labels};
  Counter prefix_hits{"vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", labels};
  Counter prefix_waits{"engine_prefix_waits_total",
                       "Prompts that waited for another one to compute what both begin with.", labels};
  Counter drafts{"vllm:spec_decode_num_drafts_total", "Times that tokens of an answer were guessed ahead.", labels};
  Counter drafted_tokens{"vllm:spec_decode_num_draft_tokens_total", "Tokens guessed ahead and computed.", labels};
  Counter accepted_tokens{"vllm:spec_decode_num_accepted_tokens_total", "Of the tokens guessed ahead, the right ones.",
                          labels};
  Counter success_stop, success_length, success_abort;
  Histogram first_token{"vllm:time_to_first_token_seconds", "From arrival to the first token.", buckets::kFirstToken,
                        labels};
  Histogram inter_token{"vllm:inter_token_latency_seconds", "Between two tokens of an answer.", buckets::kPerToken,
                        labels};
  Histogram per_token{"vllm:time_per_output_token_seconds",
                      "As vllm:inter_token_latency_seconds, under its older name.", buckets::kPerToken, labels};
  Histogram e2e{"vllm:e2e_request_latency_seconds", "From arrival to the end.", buckets::kRequest, labels};
  Histogram queue_time{"vllm:request_queue_time_seconds", "From arrival to the first step.", buckets::kRequest, labels};
  Histogram inference_time{"vllm:request_inference_time_seconds", "From the first step to the end.", buckets::kRequest,
                           labels};
  Histogram prefill_time{"vllm:request_prefill_time_seconds", "From the first step to the first token.",
                         buckets::kRequest, labels};
  Histogram decode_time{"vllm:request_decode_time_seconds", "From the first token to the end.", buckets::kRequest,
                        labels};
  Histogram request_prompt{"vllm:request_prompt_tokens", "Prompt tokens of a request.", buckets::kTokens, labels};
  Histogram request_generation{"vllm:request_generation_tokens", "Generated tokens of a request.", buckets::kTokens,
                               labels};
  Histogram request_longest{"vllm:request_max_num_generation_tokens", "Longest answer of a request.", buckets::kTokens,
                            labels};
  Histogram request_n{"vllm:request_params_n", "Answers that a request asked for.", buckets::kChoices, labels};
  Histogram request_max_tokens{"vllm:request_params_max_tokens", "max_tokens of a request.", buckets::kTokens, labels};
  Histogram iteration_tokens{"vllm:iteration_tokens_total", "Tokens computed in one step.", buckets::kIteration,
                             labels};
};

}  // namespace ashlar::engine
