#include "engine/model_drafter.h"

#include <algorithm>

#include "engine/vector_math.h"

namespace ashlar::engine {

ModelDrafter::ModelDrafter(std::shared_ptr<models::Model> model, std::unique_ptr<models::KvStore> store, int usable)
    : model_(std::move(model)),
      store_(std::move(store)),
      cache_(*store_, true),
      vocabulary_(model_->shape().vocabulary),
      usable_(usable) {}

// Which of the drafted tokens became part of the answer.
void ModelDrafter::Trail::settle(std::span<const std::int32_t> tokens) {
  for (const std::int32_t guess : guesses_) {
    const auto next = static_cast<std::size_t>(computed_);
    // The last token is always computed: its logits are wanted.
    if (next + 1 >= tokens.size() || tokens[next] != guess) break;
    ++computed_;
  }
  guesses_.clear();
}

void ModelDrafter::propose(std::span<const Wish> wishes) {
  tokens_.clear();
  sequences_.clear();
  logit_rows_.clear();
  active_.clear();
  int budget = kCatchUp;
  for (const Wish& wish : wishes)
    if (!catch_up(wish, budget)) break;
  if (sequences_.empty()) return;
  compute();
  for (const Wish& wish : wishes) cache_.commit(wish.trail->table_, wish.tokens, wish.trail->computed_);
  for (;;) {
    for (std::size_t row = 0; row < active_.size(); ++row) active_[row]->draft->push_back(choose(row));
    tokens_.clear();
    sequences_.clear();
    logit_rows_.clear();
    std::erase_if(active_, [&](const Wish* wish) {
      const std::vector<std::int32_t>& draft = *wish->draft;
      const int position = wish->trail->computed_ + static_cast<int>(draft.size()) - 1;
      if (static_cast<int>(draft.size()) >= wish->most || position + 1 >= model_->shape().context ||
          !cache_.extend(wish->trail->table_, position + 1))
        return true;
      wish->trail->guesses_.push_back(draft.back());
      add(*wish, position, std::span(draft).last(1), true);
      return false;
    });
    if (active_.empty()) return;
    compute();
  }
}

// Plans what `wish` is behind by. false: the budget is used up.
bool ModelDrafter::catch_up(const Wish& wish, int& budget) {
  Trail& trail = *wish.trail;
  const int length = static_cast<int>(wish.tokens.size());
  if (length >= model_->shape().context) return true;
  if (!trail.open_) {
    trail.computed_ = cache_.open(trail.table_, wish.salt, wish.tokens, length - 1);
    trail.open_ = true;
  }
  trail.settle(wish.tokens);
  const int rows = std::min(length - trail.computed_, budget);
  const bool reaches = trail.computed_ + rows == length;
  if (!cache_.extend(trail.table_, trail.computed_ + rows)) return true;
  budget -= rows;
  add(wish, trail.computed_,
      wish.tokens.subspan(static_cast<std::size_t>(trail.computed_), static_cast<std::size_t>(rows)), reaches);
  if (reaches) active_.push_back(&wish);
  trail.computed_ += rows;
  return budget > 0;
}

void ModelDrafter::add(const Wish& wish, int first, std::span<const std::int32_t> tokens, bool wants_logits) {
  const int rows = static_cast<int>(tokens.size());
  const auto blocks = wish.trail->table_.blocks().first(static_cast<std::size_t>(KvCache::blocks_for(first + rows)));
  sequences_.push_back(
      {.first_row = static_cast<int>(tokens_.size()), .rows = rows, .first_position = first, .blocks = blocks});
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  if (wants_logits) logit_rows_.push_back(static_cast<int>(tokens_.size()) - 1);
}

void ModelDrafter::compute() {
  const std::size_t wanted = logit_rows_.size() * static_cast<std::size_t>(vocabulary_);
  if (logits_.size() < wanted) logits_.resize(wanted);
  model_->forward({.tokens = tokens_,
                   .sequences = sequences_,
                   .logit_rows = logit_rows_,
                   .logits = std::span(logits_).first(wanted)},
                  *store_);
}

std::int32_t ModelDrafter::choose(std::size_t row) const {
  // Logits that are no numbers have no largest: any token is as good a guess.
  const auto first = row * static_cast<std::size_t>(vocabulary_);
  return std::max(peak(std::span(logits_).subspan(first, static_cast<std::size_t>(usable_))).id, 0);
}

}  // namespace ashlar::engine
