// The engine's options, and the memory they come to.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "models/model.h"

namespace ashlar::engine {

struct EngineOptions {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 512;
  std::chrono::milliseconds target_itl{100};
  int max_model_len = 0;
  Bytes kv_cache_memory{0};
  double memory_utilization = 0.5;
  std::string kv_type = "auto";
  bool enable_prefix_caching = true;
  int max_num_queued_reqs = 1024;
  std::int64_t max_num_queued_tokens = 0;
  std::chrono::milliseconds max_queue_wait{600'000};  // as long as usual clients wait
  std::chrono::milliseconds request_timeout{0};
  std::string speculation = "auto";
  int speculative_tokens = 7;
  int speculative_max_batch = 4;

  void fields(auto&& field) {
    field("max_num_seqs", max_num_seqs, "Most answers generated together in one step.");
    field("max_num_batched_tokens", max_num_batched_tokens,
          "Most tokens computed in one step, prompts and answers together.");
    field("target_itl", target_itl,
          "Milliseconds between two tokens of an answer that prompts of others shall not exceed: while answers run, a "
          "step takes as many prompt tokens as fit, but some in any case. 0: max_num_batched_tokens alone bounds it.");
    field("max_model_len", max_model_len,
          "Most tokens of a prompt and its answer; 0: what the model was trained for, if memory allows.");
    field("kv_cache_memory", kv_cache_memory,
          "Memory for keys and values; 0: some full contexts, within memory_utilization.");
    field("memory_utilization", memory_utilization,
          "Share of the free memory that keys and values may take when kv_cache_memory is 0.");
    field("kv_type", kv_type,
          "How keys and values are stored: f16, bf16, int8 (half the memory), or auto: the faster of f16 and bf16.");
    field("enable_prefix_caching", enable_prefix_caching,
          "Keep the keys and values of finished requests for others that begin alike.");
    field("max_num_queued_reqs", max_num_queued_reqs,
          "Most requests that wait; more are refused with 429. 0: no bound.");
    field("max_num_queued_tokens", max_num_queued_tokens,
          "Most prompt tokens that wait; more are refused with 429. 0: no bound.");
    field("max_queue_wait", max_queue_wait,
          "Milliseconds that a request may wait to begin; one that would wait longer is refused with 503. 0: until its "
          "deadline.");
    field("request_timeout", request_timeout, "Milliseconds that a request may take in all. 0: no bound.");
    field("speculation", speculation,
          "Who guesses tokens ahead, which one step then confirms: ngram (what stood in the prompt or the answer "
          "before), draft (the draft model), auto (whichever guesses better) or off. A request may ask otherwise.");
    field("speculative_tokens", speculative_tokens, "Most tokens of an answer guessed at once.");
    field("speculative_max_batch", speculative_max_batch,
          "Nothing is guessed in a step of more answers than this, where each row costs its share.");
  }
};

// invalid: values that no engine can have, whatever its model.
Status check_options(const EngineOptions& options);

// The cache that these options give a model.
struct CachePlan {
  int context = 0;  // max_model_len, resolved
  int blocks = 0;
  models::KvType type = models::KvType::f16;
};

// `available`: free memory. `draft`: a model that guesses, or null; it gets as many
// blocks, out of the same memory. invalid: options that contradict each other or
// the model; exhausted: a single block finds no room.
Result<CachePlan> plan_cache(const EngineOptions& options, const models::Model& model, Bytes available,
                             const models::Model* draft = nullptr);

// What this process may still take: MemAvailable, and its cgroup's limit.
Bytes available_memory();

}  // namespace ashlar::engine
