#include "cli/direct.h"

#include <algorithm>
#include <numeric>

namespace ashlar::cli {

Result<Direct> Direct::create(models::Model& model, int sequences, int tokens_each, models::KvType type) {
  const int blocks_each = (tokens_each + models::kBlockTokens - 1) / models::kBlockTokens;
  auto kv = TRY(model.make_kv_store(sequences * blocks_each, type));
  return Direct(model, std::move(kv), sequences, blocks_each);
}

Direct::Direct(models::Model& model, std::unique_ptr<models::KvStore> kv, int sequences, int blocks_each)
    : model_(&model),
      kv_(std::move(kv)),
      blocks_each_(blocks_each),
      block_ids_(static_cast<std::size_t>(sequences * blocks_each)),
      positions_(static_cast<std::size_t>(sequences)) {
  std::iota(block_ids_.begin(), block_ids_.end(), 0);
}

std::span<int> Direct::blocks(int sequence) {
  return std::span(block_ids_)
      .subspan(static_cast<std::size_t>(sequence * blocks_each_), static_cast<std::size_t>(blocks_each_));
}

void Direct::rewind(int sequence, int tokens) {
  const auto own = blocks(sequence);
  std::iota(own.begin(), own.end(), sequence * blocks_each_);
  positions_[static_cast<std::size_t>(sequence)] = tokens;
}

void Direct::copy(int from, int to) {
  rewind(to, positions_[static_cast<std::size_t>(from)]);
  const int used = (positions_[static_cast<std::size_t>(from)] + models::kBlockTokens - 1) / models::kBlockTokens;
  for (int i = 0; i < used; ++i)
    kv_->copy_block(blocks(from)[static_cast<std::size_t>(i)], blocks(to)[static_cast<std::size_t>(i)]);
}

void Direct::share(int from, int sequences) {
  const int tokens = positions_[static_cast<std::size_t>(from)];
  const auto whole = static_cast<std::size_t>(tokens / models::kBlockTokens);
  const auto source = blocks(from);
  for (int s = 0; s < sequences; ++s) {
    if (s == from) continue;
    rewind(s, tokens);
    std::copy_n(source.begin(), whole, blocks(s).begin());
    if (tokens % models::kBlockTokens != 0) kv_->copy_block(source[whole], blocks(s)[whole]);
  }
}

std::span<const float> Direct::logits_row(int index) const {
  const auto width = static_cast<std::size_t>(model_->shape().vocabulary);
  return std::span(logits_).subspan(static_cast<std::size_t>(index) * width, width);
}

void Direct::run(std::span<const std::int32_t> tokens, std::span<const models::Step::Sequence> sequences) {
  const auto needed = rows_.size() * static_cast<std::size_t>(model_->shape().vocabulary);
  if (logits_.size() < needed) logits_.resize(needed);
  model_->forward(
      {.tokens = tokens, .sequences = sequences, .logit_rows = rows_, .logits = std::span(logits_).first(needed)},
      *kv_);
}

void Direct::pass(int sequence, std::span<const std::int32_t> tokens, int wanted) {
  const int rows = static_cast<int>(tokens.size());
  int& position = positions_[static_cast<std::size_t>(sequence)];
  const models::Step::Sequence one{
      .first_row = 0, .rows = rows, .first_position = position, .blocks = blocks(sequence)};
  rows_.resize(static_cast<std::size_t>(wanted));
  std::iota(rows_.begin(), rows_.end(), rows - wanted);
  run(tokens, {&one, 1});
  position += rows;
}

void Direct::step(std::span<const std::int32_t> tokens) {
  std::vector<std::span<const std::int32_t>> chunks;
  for (const std::int32_t& token : tokens) chunks.emplace_back(&token, 1);
  pass_together(chunks, /*logits=*/true);
}

void Direct::pass_together(std::span<const std::span<const std::int32_t>> chunks, bool logits) {
  std::vector<std::int32_t> tokens;
  std::vector<models::Step::Sequence> sequences;
  rows_.clear();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].empty()) continue;
    sequences.push_back({.first_row = static_cast<int>(tokens.size()),
                         .rows = static_cast<int>(chunks[i].size()),
                         .first_position = positions_[i],
                         .blocks = blocks(static_cast<int>(i))});
    tokens.insert(tokens.end(), chunks[i].begin(), chunks[i].end());
    positions_[i] += static_cast<int>(chunks[i].size());
    if (logits) rows_.push_back(static_cast<int>(tokens.size()) - 1);
  }
  run(tokens, sequences);
}

}  // namespace ashlar::cli
