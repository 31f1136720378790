// config.json and generation_config.json of a Hugging Face folder: what they say of a model of a family that this
// build knows. A member that is null counts as absent, and what is absent is as the library that wrote it takes it to
// be. Of a folder that holds more than a text model, the text model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/config.h"
#include "models/formats/hf_families.h"

namespace ashlar::models {

// What the publisher advises for sampling; empty: nothing is said.
struct SamplingAdvice {
  std::optional<bool> sample;  // false: take the likeliest token
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
};

struct HfConfig {
  // Of the architecture that GGUF calls so too, vocabulary included. The rows of
  // W_q and W_k are not interleaved in such folders, so rope turns halves.
  Config config;
  std::vector<float> rope_factors;                 // Llama 3's, as GGUF's rope_freqs.weight: [rope.dims / 2], or empty
  std::vector<float> long_factors, short_factors;  // LongRoPE's, likewise
  double yarn_log_multiplier = 0;                  // DeepSeek's: scores grow by (1 + this * ln(factor))^2
  HfTask task = HfTask::generate;
  bool nested = false;          // the text model is a part of the folder's
  bool tied_embedding = false;  // the output matrix is the embedding
  std::string quantization;     // quantization_config's quant_method, "gptq"; empty: plain weights
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;  // any of these ends a text
  SamplingAdvice sampling;
};

// The texts of the two files; `generation` may be empty. `folder` is what errors
// call the place. corrupt: not JSON, or a member is missing or impossible;
// unsupported: another architecture, or a variant that the layers do not compute.
Result<HfConfig> read_hf_config(std::string_view config, std::string_view generation, std::string_view folder);

// The same of a folder's files. not_found: there is no config.json.
Result<HfConfig> open_hf_config(const std::string& folder);

}  // namespace ashlar::models
