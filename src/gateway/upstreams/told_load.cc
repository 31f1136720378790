#include "gateway/upstreams/told_load.h"

#include <algorithm>
#include <charconv>

namespace ashlar::gateway {
namespace {

constexpr std::string_view kWaiting[] = {"vllm:num_requests_waiting", "sglang:num_queue_reqs",
                                         "lmdeploy:num_requests_waiting", "tgi_queue_size",
                                         "llamacpp:requests_deferred"};
constexpr std::string_view kMemory[] = {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage",
                                        "lmdeploy:gpu_cache_usage", "llamacpp:kv_cache_usage_ratio"};
constexpr double kMostWaiting = 1e9;

bool is_one_of(std::string_view name, const auto& names) { return std::ranges::find(names, name) != std::end(names); }

// The value of `name{label="..."} 1.5 1700000000`, whose labels may have blanks within.
std::optional<double> value_of(std::string_view rest) {
  if (rest.starts_with('{')) {
    const auto end = rest.rfind('}');
    if (end == rest.npos) return std::nullopt;
    rest.remove_prefix(end + 1);
  }
  while (rest.starts_with(' ') || rest.starts_with('\t')) rest.remove_prefix(1);
  double value = 0;
  const auto [end, failed] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (failed != std::errc{} || !(value >= 0)) return std::nullopt;  // NaN neither
  return value;
}

}  // namespace

std::optional<ToldLoad> read_told_load(std::string_view page) {
  ToldLoad out;
  double waiting = 0;
  bool told = false;
  while (!page.empty()) {
    const auto end = std::min(page.find('\n'), page.size());
    const std::string_view line = page.substr(0, end);
    page.remove_prefix(std::min(page.size(), end + 1));
    const auto name = line.substr(0, line.find_first_of("{ \t"));
    const bool queue = is_one_of(name, kWaiting), memory = is_one_of(name, kMemory);
    if (!queue && !memory) continue;
    const auto value = value_of(line.substr(name.size()));
    if (!value) continue;
    told = true;
    if (queue) waiting = std::min(waiting + *value, kMostWaiting);
    if (memory) out.kv_used = std::max(out.kv_used, std::min(*value, 1.0));
  }
  if (!told) return std::nullopt;
  out.waiting = static_cast<int>(waiting);
  return out;
}

}  // namespace ashlar::gateway
