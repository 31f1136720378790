#include "engine/engine_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "engine/generator.h"

namespace ashlar::engine {
namespace {

constexpr int kBlock = models::kBlockTokens;
constexpr std::int64_t kContexts = 4;             // full contexts that the cache holds unless told otherwise,
constexpr std::int64_t kLeastTokens = 64 * 1024;  // or this many positions where contexts are short
constexpr int kMostGuesses = 64;

int ceil_blocks(std::int64_t tokens) { return static_cast<int>((tokens + kBlock - 1) / kBlock); }

// The one number in a file such as memory.max; nothing if there is none ("max").
std::uint64_t read_number(const char* path, std::uint64_t otherwise) {
  std::ifstream in(path);
  std::uint64_t value = 0;
  return in >> value ? value : otherwise;
}

std::unexpected<Error> invalid(std::string message) {
  return std::unexpected(Error{Code::invalid, std::move(message)});
}

}  // namespace

Status check_options(const EngineOptions& o) {
  if (o.max_num_seqs < 1 || o.max_num_seqs > 65536)
    return invalid(fmt::format("max_num_seqs is {}, but it must be between 1 and 65536", o.max_num_seqs));
  if (o.max_num_batched_tokens < o.max_num_seqs || o.max_num_batched_tokens > 1 << 20)
    return invalid(fmt::format("max_num_batched_tokens is {}, but it must be at least max_num_seqs ({}) and at most {}",
                               o.max_num_batched_tokens, o.max_num_seqs, 1 << 20));
  if (o.max_model_len < 0)
    return invalid(fmt::format("max_model_len is {}, but it cannot be negative", o.max_model_len));
  if (!(o.memory_utilization > 0 && o.memory_utilization <= 1))
    return invalid(fmt::format("memory_utilization is {}, but it is a share between 0 and 1", o.memory_utilization));
  if (o.max_num_queued_reqs < 0 || o.max_num_queued_tokens < 0)
    return invalid("max_num_queued_reqs and max_num_queued_tokens cannot be negative");
  if (!speculation_of(o.speculation))
    return invalid(fmt::format("speculation is '{}', but it must be off, ngram, draft or auto", o.speculation));
  if (o.speculative_tokens < 0 || o.speculative_tokens > kMostGuesses)
    return invalid(
        fmt::format("speculative_tokens is {}, but it must be between 0 and {}", o.speculative_tokens, kMostGuesses));
  if (o.speculative_max_batch < 0)
    return invalid(fmt::format("speculative_max_batch is {}, but it cannot be negative", o.speculative_max_batch));
  TRY(models::kv_type_of(o.kv_type));
  return {};
}

Bytes available_memory() {
  std::uint64_t available = std::numeric_limits<std::uint64_t>::max();
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("MemAvailable:")) available = std::strtoull(line.c_str() + 13, nullptr, 10) << 10;
  const std::uint64_t limit = read_number("/sys/fs/cgroup/memory.max", available);
  const std::uint64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
  if (limit < available) available = std::min(available, limit - std::min(limit, used));
  return {available};
}

Result<CachePlan> plan_cache(const EngineOptions& options, const models::Model& model, Bytes available,
                             const models::Model* draft) {
  const int trained = model.shape().context;
  TRY(check_options(options));
  if (options.max_model_len > trained)
    return invalid(fmt::format("max_model_len is {}, but the model's context is {}", options.max_model_len, trained));
  CachePlan plan{.type = TRY(models::kv_type_of(options.kv_type))};
  const int context = options.max_model_len > 0 ? options.max_model_len : trained;
  const std::uint64_t block_bytes = std::max<std::uint64_t>(
      1, model.kv_block_bytes(plan.type).count + (draft != nullptr ? draft->kv_block_bytes(plan.type).count : 0));

  std::int64_t blocks = 0;
  if (options.kv_cache_memory.count > 0) {
    blocks = static_cast<std::int64_t>(options.kv_cache_memory.count / block_bytes);
  } else {
    // More than every sequence at its longest is never used.
    const std::int64_t wanted = std::min<std::int64_t>(static_cast<std::int64_t>(options.max_num_seqs) * context,
                                                       std::max<std::int64_t>(kContexts * context, kLeastTokens));
    const auto budget = static_cast<std::uint64_t>(static_cast<double>(available.count) * options.memory_utilization);
    blocks = std::min<std::int64_t>(ceil_blocks(wanted), static_cast<std::int64_t>(budget / block_bytes));
  }
  blocks = std::min<std::int64_t>(blocks, std::numeric_limits<int>::max() / kBlock);
  const Bytes room{static_cast<std::uint64_t>(blocks) * block_bytes};
  if (blocks < 1)
    return Error{Code::exhausted,
                 fmt::format("no memory for keys and values: a block of {} tokens takes {}, and {} are given", kBlock,
                             to_string(Bytes{block_bytes}),
                             to_string(options.kv_cache_memory.count > 0 ? options.kv_cache_memory : room))};
  if (options.max_model_len > blocks * kBlock)
    return Error{Code::invalid,
                 fmt::format("max_model_len is {}, but the memory for keys and values ({}) holds {} tokens: "
                             "lower max_model_len or raise kv_cache_memory",
                             options.max_model_len, to_string(room), blocks * kBlock)};
  plan.blocks = static_cast<int>(blocks);
  plan.context = static_cast<int>(std::min<std::int64_t>(context, blocks * kBlock));
  return plan;
}

}  // namespace ashlar::engine
