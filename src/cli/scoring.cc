#include "cli/scoring.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "cli/direct.h"

namespace ashlar::cli {
namespace {

constexpr int kChunk = 64;  // rows whose logits are held at once

// log of the sum of exp(logits).
double log_total(std::span<const float> logits) {
  const float most = std::ranges::max(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - most));
  return most + std::log(sum);
}

double divergence_of(std::span<const float> base, std::span<const float> logits) {
  const double total = log_total(base), other = log_total(logits);
  double sum = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    const double log_p = base[i] - total;
    sum += std::exp(log_p) * (log_p - (logits[i] - other));
  }
  return sum;
}

// Adds one token to the score. `base`: the other model's logits, or none.
void add_token(std::span<const float> logits, std::span<const float> base, std::int32_t token, Score& score) {
  const auto at = static_cast<std::size_t>(token);
  score.loss += log_total(logits) - logits[at];
  ++score.tokens;
  if (base.empty()) return;
  score.base_loss += log_total(base) - base[at];
  score.divergence += divergence_of(base, logits);
  score.same += std::ranges::max_element(base) - base.begin() == std::ranges::max_element(logits) - logits.begin();
}

}  // namespace

void start_windows(std::span<std::int32_t> tokens, int window, const text::Vocabulary& vocabulary) {
  if (!vocabulary.add_bos || vocabulary.bos < 0) return;
  for (std::size_t at = 0; at < tokens.size(); at += static_cast<std::size_t>(window)) tokens[at] = vocabulary.bos;
}

Result<Score> score_windows(models::Model& model, std::span<const std::int32_t> tokens, int window, models::KvType kv,
                            const ScoreWatch& watch, models::Model* base) {
  auto direct = TRY(Direct::create(model, 1, window, kv));
  std::optional<Direct> beside;
  if (base != nullptr) beside = TRY(Direct::create(*base, 1, window, kv));
  std::vector<float> base_logits;
  Score score;
  const auto start = std::chrono::steady_clock::now();
  const auto size = static_cast<std::size_t>(window);
  for (std::size_t w = 0; w < tokens.size() / size; ++w) {
    const auto span = tokens.subspan(w * size, size);
    const auto ignore = [](int, std::span<const float>) {};
    // Positions N/2+1 ... N-1 are scored, each from the logits one before it.
    const std::size_t first = size / 2;
    direct.forget(0);
    direct.feed(0, span.first(first), 0, 512, ignore);
    if (beside) beside->forget(0);
    if (beside) beside->feed(0, span.first(first), 0, 512, ignore);
    for (std::size_t from = first; from < size - 1; from += kChunk) {
      const auto piece = span.subspan(from, std::min(std::size_t{kChunk}, size - 1 - from));
      const int rows = static_cast<int>(piece.size());
      base_logits.clear();
      if (beside)
        beside->feed(0, piece, rows, kChunk, [&](int, std::span<const float> logits) {
          base_logits.insert(base_logits.end(), logits.begin(), logits.end());
        });
      direct.feed(0, piece, rows, kChunk, [&](int at, std::span<const float> logits) {
        const auto row = static_cast<std::size_t>(at);
        const std::span<const float> other(base_logits);
        add_token(logits, other.empty() ? other : other.subspan(row * logits.size(), logits.size()),
                  span[from + row + 1], score);
      });
    }
    score.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    TRY(watch(static_cast<std::int64_t>(w + 1), score));
  }
  return score;
}

}  // namespace ashlar::cli
