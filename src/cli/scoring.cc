#include "cli/scoring.h"

#include <algorithm>
#include <chrono>

#include "cli/direct.h"

namespace ashlar::cli {
namespace {

double log_probability(std::span<const float> logits, std::int32_t token) {
  const float most = std::ranges::max(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - most));
  return static_cast<double>(logits[static_cast<std::size_t>(token)] - most) - std::log(sum);
}

}  // namespace

void start_windows(std::span<std::int32_t> tokens, int window, const text::Vocabulary& vocabulary) {
  if (!vocabulary.add_bos || vocabulary.bos < 0) return;
  for (std::size_t at = 0; at < tokens.size(); at += static_cast<std::size_t>(window)) tokens[at] = vocabulary.bos;
}

Result<Score> score_windows(models::Model& model, std::span<const std::int32_t> tokens, int window, models::KvType kv,
                            const ScoreWatch& watch) {
  constexpr int kChunk = 64;  // rows whose logits are held at once
  auto direct = TRY(Direct::create(model, 1, window, kv));
  Score score;
  const auto start = std::chrono::steady_clock::now();
  const auto size = static_cast<std::size_t>(window);
  for (std::size_t w = 0; w < tokens.size() / size; ++w) {
    const auto span = tokens.subspan(w * size, size);
    direct.forget(0);
    // Positions N/2+1 ... N-1 are scored, each from the logits one before it.
    const int first = window / 2;
    direct.feed(0, span.first(static_cast<std::size_t>(first)), 0, 512, [](int, std::span<const float>) {});
    const auto scored = span.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(window - 1 - first));
    direct.feed(0, scored, static_cast<int>(scored.size()), kChunk, [&](int at, std::span<const float> logits) {
      score.loss -= log_probability(logits, span[static_cast<std::size_t>(first + at + 1)]);
      ++score.tokens;
    });
    score.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    TRY(watch(static_cast<std::int64_t>(w + 1), score));
  }
  return score;
}

}  // namespace ashlar::cli
