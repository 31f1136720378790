// Sequences driven straight through a model, without the engine's queue: for
// measuring and scoring.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "models/model.h"

namespace ashlar::cli {

// Each sequence owns a fixed run of KV blocks. One thread.
class Direct {
 public:
  // exhausted: the keys and values do not fit in memory.
  static Result<Direct> create(models::Model& model, int sequences, int tokens_each, models::KvType type);

  // Appends `tokens` to `sequence`, at most `chunk` rows a pass. The logits of
  // the last `wanted` tokens go to `each`, row by row; the span dies with the call.
  template <class F>
  void feed(int sequence, std::span<const std::int32_t> tokens, int wanted, int chunk, F&& each) {
    const int total = static_cast<int>(tokens.size());
    for (int at = 0; at < total;) {
      const int rows = std::min(chunk, total - at);
      const int first_wanted = std::max(at, total - wanted);
      const int wanted_here = std::max(0, at + rows - first_wanted);
      pass(sequence, tokens.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(rows)), wanted_here);
      for (int i = 0; i < wanted_here; ++i) each(first_wanted + i, logits_row(i));
      at += rows;
    }
  }

  // One token for each of the first tokens.size() sequences, all in one pass.
  void step(std::span<const std::int32_t> tokens);

  // One pass with a chunk of each of several sequences: chunks[i] belongs to sequence i.
  void pass_together(std::span<const std::span<const std::int32_t>> chunks, bool logits);

  // The sequence holds its first `tokens` tokens, in blocks of its own again.
  void rewind(int sequence, int tokens);
  void forget(int sequence) { rewind(sequence, 0); }

  // `to` holds what `from` holds: in blocks of its own, or
  void copy(int from, int to);
  // all other sequences below `sequences` do, in the same blocks. What they
  // get from then on is their own.
  void share(int from, int sequences);

 private:
  Direct(models::Model& model, std::unique_ptr<models::KvStore> kv, int sequences, int blocks_each);
  void pass(int sequence, std::span<const std::int32_t> tokens, int wanted);
  void run(std::span<const std::int32_t> tokens, std::span<const models::Step::Sequence> sequences);
  std::span<int> blocks(int sequence);
  std::span<const float> logits_row(int index) const;

  models::Model* model_;
  std::unique_ptr<models::KvStore> kv_;
  int blocks_each_;
  std::vector<int> block_ids_;  // 0, 1, 2, ...: sequence s has and owns [s * blocks_each, ...), unless it shares
  std::vector<int> positions_;  // tokens that each sequence holds
  std::vector<int> rows_;
  std::vector<float> logits_;
};

}  // namespace ashlar::cli
