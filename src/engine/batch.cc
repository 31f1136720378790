#include "engine/batch.h"

namespace ashlar::engine {

void Batch::build(const Plan& plan) {
  tokens_.clear();
  sequences_.clear();
  logit_rows_.clear();
  rows_.clear();
  for (const Plan::Item& item : plan.items) {
    auto& choice = static_cast<Choice&>(*item.sequence);
    const int first_row = static_cast<int>(tokens_.size());
    const int known = item.rows - item.drafted;
    const auto begin = choice.tokens.begin() + item.first;
    tokens_.insert(tokens_.end(), begin, begin + known);
    tokens_.insert(tokens_.end(), choice.draft.begin(), choice.draft.begin() + item.drafted);
    sequences_.push_back(
        {.first_row = first_row,
         .rows = item.rows,
         .first_position = item.first,
         .blocks = choice.table.blocks().first(static_cast<std::size_t>(KvCache::blocks_for(item.first + item.rows))),
         .adapter = choice.job.adapter == nullptr ? nullptr : choice.job.adapter->adapter.get()});
    const Job& job = choice.job;
    for (int row = 0; row < item.rows; ++row) {
      const int position = item.first + row;
      const bool last = item.last && row >= known - 1;
      // The row at p scores the prompt's token p + 1; after a preemption some are known already.
      const bool scores = job.prompt_logprobs >= 0 && position + 1 < job.prompt_tokens &&
                          position + 1 >= static_cast<int>(job.prompt_scores.size());
      if (!last && !scores) continue;
      logit_rows_.push_back(first_row + row);
      rows_.push_back({.choice = &choice,
                       .position = position,
                       .last = last,
                       .drafted = last && row == known - 1 ? item.drafted : 0});
    }
  }
  const std::size_t wanted = rows_.size() * static_cast<std::size_t>(vocabulary_);
  if (logits_.size() < wanted) logits_.resize(wanted);
}

void Batch::forward(models::Model& model, models::KvStore& store, const std::function<void()>* pause) {
  model.forward({.tokens = tokens_,
                 .sequences = sequences_,
                 .logit_rows = logit_rows_,
                 .logits = std::span(logits_).first(rows_.size() * static_cast<std::size_t>(vocabulary_)),
                 .pause = pause},
                store);
}

std::span<const float> Batch::logits(std::size_t row) const {
  return std::span(logits_).subspan(row * static_cast<std::size_t>(vocabulary_), static_cast<std::size_t>(usable_));
}

}  // namespace ashlar::engine
