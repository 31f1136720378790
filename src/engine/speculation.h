// Speculative decoding: tokens are guessed ahead, and the step that computes the
// next token computes the logits after each guess, too. The sampler then draws
// token after token as ever, with the request's own random numbers, and goes on as
// long as it draws what was guessed. So an answer is the same, token for token and
// whatever the temperature, as without; and a guess x is right with the probability
// p(x), as in the rejection sampling of Leviathan et al. (2023) for a draft that is
// certain.
//
// How much is guessed follows how often guesses were right lately in that answer,
// so that one which repeats nothing is hardly slowed down.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "engine/compute_lock.h"
#include "engine/generator.h"
#include "engine/model_drafter.h"
#include "engine/ngram_index.h"
#include "engine/scheduler.h"

namespace ashlar::engine {

struct Choice;

// Whose guess it was: the longer a match, the more it is worth.
enum class Source { short_match, match, long_match, model };
inline constexpr int kSources = 4;

// How often the guesses in one answer were right.
class Confidence {
 public:
  // The chance that a guess of `source` is right when those before it were.
  double rate(Source source) const { return rates_[static_cast<std::size_t>(source)]; }
  // How many of at most `most` guesses are worth their rows, of which the first
  // `cheap` cost next to nothing. None: it will try again after some calls.
  int depth(Source source, int most, int cheap);
  // Of `drafted` guesses the first `accepted` were right.
  void learn(Source source, int drafted, int accepted);

 private:
  std::array<double, kSources> rates_ = {0.4, 0.6, 0.85, 0.75};
};

// What is kept of one answer. Engine thread.
struct Guesses {
  // Fixed when the request arrives.
  Speculation by = Speculation::off;
  int most = 0;  // at once
  std::shared_ptr<const std::vector<std::int32_t>>
      prediction;  // what the answer may repeat besides its prompt; or null

  int accepted = 0, rejected = 0;

  // The speculator's own.
  std::unique_ptr<NgramIndex> ngrams;
  std::unique_ptr<ModelDrafter::Trail> trail;
  Confidence confidence;
  Source source = Source::match;  // of the draft at hand
};

// Engine thread only.
class Speculator {
 public:
  // `drafter` may be null. `turns`: held while it computes; may be null.
  Speculator(int max_batch, std::unique_ptr<ModelDrafter> drafter, ComputeLock* turns)
      : max_batch_(max_batch), drafter_(std::move(drafter)), turns_(turns) {}

  // Sets the draft of each sequence (all are Choices) for the step that is planned next.
  void propose(std::span<Sequence* const> running);

  // Of its draft `drafted` tokens were computed, and the first `accepted` were right.
  void learn(Choice& choice, int drafted, int accepted);

  // It is out of the batch: what is held for it is given back.
  void leave(Choice& choice);

 private:
  void guess(Choice& choice, int most, int cheap);
  void ask_model();

  int max_batch_;
  std::unique_ptr<ModelDrafter> drafter_;
  ComputeLock* turns_;
  bool broken_ = false;  // the drafter threw
  std::vector<ModelDrafter::Wish> wishes_;
};

}  // namespace ashlar::engine
