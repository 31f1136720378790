// How well a model predicts tokens, as llama.cpp measures it.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace ashlar::cli {

struct Score {
  double loss = 0;  // sum of -log p
  std::int64_t tokens = 0;
  double seconds = 0;
  double perplexity() const { return std::exp(loss / static_cast<double>(tokens)); }
};

// Each window's first token becomes BOS where the model adds one.
void start_windows(std::span<std::int32_t> tokens, int window, const text::Vocabulary& vocabulary);

// After each window: windows done, and the score so far. An error stops the work and is returned.
using ScoreWatch = std::function<Status(std::int64_t done, const Score& score)>;

// `tokens` are whole windows of at least 4; positions N/2+1 to N-1 of each are scored. exhausted: no memory for the
// keys and values.
Result<Score> score_windows(models::Model& model, std::span<const std::int32_t> tokens, int window, models::KvType kv,
                            const ScoreWatch& watch);

}  // namespace ashlar::cli
