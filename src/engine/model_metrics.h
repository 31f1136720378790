// What is measured of every model that is served, whether it generates or reads.
#pragma once

#include <chrono>
#include <string>

#include "base/metrics.h"
#include "engine/generator.h"

namespace ashlar::engine {

struct ModelMetrics {
  ModelMetrics(const std::string& model, const std::string& engine)
      : labels{{"model_name", model}, {"engine", engine}} {}

  static double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

  Labels labels;
  Counter prompt_tokens{"vllm:prompt_tokens_total", "Prompt tokens of requests that began to be answered.", labels};
};

}  // namespace ashlar::engine
