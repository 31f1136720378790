// A plan as the model wants it: rows of tokens, block tables, and the logits that
// come back. Keeps its memory from step to step.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/job.h"
#include "engine/scheduler.h"
#include "models/model.h"

namespace ashlar::engine {

// Engine thread only.
class Batch {
 public:
  // `vocabulary`: of the model; `usable`: the ids that have a token, the first ones.
  Batch(int vocabulary, int usable) : vocabulary_(vocabulary), usable_(usable) {}

  int usable() const { return usable_; }

  // The plan's sequences are Choices; both must outlive forward().
  void build(const Plan& plan);
  // `pause`: of the step (models/model.h); null: it has none.
  void forward(models::Model& model, models::KvStore& store, const std::function<void()>* pause);

  // One row whose logits were computed: the end of a sequence and then each of its
  // guessed tokens, or a token of a prompt whose log-probabilities are wanted.
  struct Row {
    Choice* choice = nullptr;
    int position = 0;
    bool last = false;  // gives a token: the sequence's next one, or the one after a guess
    int drafted = 0;    // of the end: how many rows of guesses come next
  };
  std::span<const Row> rows() const { return rows_; }
  // [usable] after forward(), valid until the next build().
  std::span<const float> logits(std::size_t row) const;

 private:
  int vocabulary_, usable_;
  std::vector<std::int32_t> tokens_;
  std::vector<models::Step::Sequence> sequences_;
  std::vector<int> logit_rows_;
  std::vector<Row> rows_;
  std::vector<float> logits_;
};

}  // namespace ashlar::engine
