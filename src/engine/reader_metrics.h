// What is measured of texts that are embedded or ranked. One set for each loaded model.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "engine/model_metrics.h"

namespace ashlar::engine {

struct ReaderMetrics : ModelMetrics {
  static constexpr std::array kSeconds = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0};

  explicit ReaderMetrics(const std::string& model) : ModelMetrics(model, "reader") {}

  void step_done(Clock::duration took, std::size_t step_tokens) {
    steps.add();
    computed_tokens.add(step_tokens);
    step_seconds.observe(seconds(took));
  }
  // When a request has ended well.
  void request_done(Clock::duration took, std::size_t its_texts, int its_tokens) {
    requests.add();
    texts.add(its_texts);
    prompt_tokens.add(static_cast<std::uint64_t>(its_tokens));
    request_seconds.observe(seconds(took));
  }

  Counter requests{"reader_requests_total", "Requests whose texts were embedded or ranked.", labels};
  Counter texts{"reader_texts_total", "Texts embedded or ranked.", labels};
  Counter refused{"reader_refused_total", "Requests refused because too many texts wait.", labels};
  Counter failed{"reader_failed_total", "Requests that ended in an error.", labels};
  Counter steps{"reader_steps_total", "Forward passes over texts.", labels};
  Counter computed_tokens{"reader_computed_tokens_total", "Tokens in those passes.", labels};
  Gauge waiting{"reader_waiting_texts", "Texts that wait or are being read.", labels};
  Histogram step_seconds{"reader_step_seconds", "Time of one forward pass over texts.", kSeconds, labels};
  Histogram request_seconds{"reader_request_seconds", "From a request's arrival to its answer.", kSeconds, labels};
};

}  // namespace ashlar::engine
