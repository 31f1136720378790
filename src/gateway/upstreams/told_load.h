// How busy another server says it is, on its page for Prometheus.
#pragma once

#include <optional>
#include <string_view>

namespace ashlar::gateway {

struct ToldLoad {
  int waiting = 0;     // requests, over all its models
  double kv_used = 0;  // of the memory for keys and values, the fullest: 0 to 1
};

// The names of vLLM (and so Ashlar's), SGLang, LMDeploy, TGI and llama-server. nullopt: none of them stands there.
std::optional<ToldLoad> read_told_load(std::string_view page);

}  // namespace ashlar::gateway
