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
  // Beside another model, whose probabilities are p: the sums of -log p and of the divergences, sum of p log(p / q)
  // over the vocabulary, and for how many tokens both find the same one likeliest.
  double base_loss = 0, divergence = 0;
  std::int64_t same = 0;

  double per_token(double sum) const { return sum / static_cast<double>(tokens); }
  double perplexity() const { return std::exp(per_token(loss)); }
  double base_perplexity() const { return std::exp(per_token(base_loss)); }
};

// Each window's first token becomes BOS where the model adds one.
void start_windows(std::span<std::int32_t> tokens, int window, const text::Vocabulary& vocabulary);

// After each window: windows done, and the score so far. An error stops the work and is returned.
using ScoreWatch = std::function<Status(std::int64_t done, const Score& score)>;

// `tokens` are whole windows of at least 4; positions N/2+1 to N-1 of each are scored. `base`, or null: a model of the
// same vocabulary that this one is compared with. exhausted: no memory for the keys and values.
Result<Score> score_windows(models::Model& model, std::span<const std::int32_t> tokens, int window, models::KvType kv,
                            const ScoreWatch& watch, models::Model* base = nullptr);

}  // namespace ashlar::cli
