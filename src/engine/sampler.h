// From a row of logits to a token.
//
// The order is vLLM's: raw log-probabilities are taken first; then
// allowed_token_ids, min_tokens, logit_bias, and the penalties; temperature 0
// ends here with the largest logit (of equal ones the lowest id). Else temperature,
// then min-p, top-k, top-p and typical each narrow what the one before left, the
// last two by shares of what is left; ties fall to the lowest ids.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/generator.h"
#include "engine/vector_math.h"

namespace ashlar::engine {

// xoshiro256** (Blackman and Vigna, 2018), seeded by splitmix64.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream);
  std::uint64_t next();
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)

 private:
  std::uint64_t s_[4];
};

// A token's log-probability among all, and those of the likeliest.
struct RawLogprobs {
  float chosen = 0;
  std::vector<Scored> top;  // best first
};
// `row` finite; `top` alternatives.
RawLogprobs raw_logprobs(std::span<const float> row, std::int32_t chosen, int top);

// A candidate, and how far its surprise is from what is usual.
struct Odd {
  double oddness = 0;
  Scored candidate;
};

// One answer's choices of tokens. One thread at a time; its tokens depend on its
// own logits and seed alone, not on who else is in the batch.
class Sampler {
 public:
  // Working memory, one for each thread that samples.
  struct Scratch {
    std::vector<float> logits, weights;
    std::vector<Scored> candidates;
    std::vector<Odd> odd;
  };
  struct Sampled {
    std::int32_t id = 0;
    RawLogprobs logprobs;  // if asked
  };

  // `ends`: what min_tokens holds back. `logprobs`: as in Request. `stream`: the
  // choice's number, so that choices of one seed differ.
  Sampler(Sampling sampling, int min_tokens, std::vector<std::int32_t> ends, int logprobs, int stream,
          std::span<const std::int32_t> prompt);

  static Error not_finite();

  // internal: the logits are not finite. invalid: nothing may be chosen.
  Result<Sampled> sample(std::span<const float> logits, Scratch& scratch);

 private:
  bool changes_logits() const;
  std::span<const float> adjust(std::span<const float> logits, Scratch& scratch) const;
  std::int32_t draw(std::span<const float> logits, const Peak& best, Scratch& scratch);
  double gather(std::span<const float> logits, float max, Scratch& scratch) const;
  std::int32_t pick(const std::vector<Scored>& candidates);
  std::int32_t pick(std::span<const float> weights, double total, std::int32_t likeliest);

  Sampling sampling_;
  int min_tokens_;
  std::vector<std::int32_t> ends_;
  int logprobs_;
  Random random_;
  bool penalties_, repetition_;
  std::vector<std::int32_t> prompt_tokens_;         // each once; for the repetition penalty
  std::unordered_map<std::int32_t, int> answered_;  // how often; for all penalties
  int produced_ = 0;
};

}  // namespace ashlar::engine
