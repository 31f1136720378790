// How fast the engine goes: what its steps cost lately, and what passed through
// in the last seconds.
#pragma once

#include <array>
#include <cstdint>

#include "engine/generator.h"

namespace ashlar::engine {

// Not locked: whoever shares it locks.
class Pace {
 public:
  // A step took `seconds` for `prompt_rows` of prompts and `decodes` answers.
  void step(Clock::time_point now, double seconds, int prompt_rows, int decodes);
  // A prompt of `tokens` began, of which the prefix cache had `cached`.
  void began(int tokens, int cached);
  // A choice ended after `tokens`.
  void ended(int tokens);

  // Averages that forget slowly; 0: not measured yet.
  double seconds_per_prompt_token() const { return prompt_token_; }
  double seconds_per_decode() const { return decode_; }  // one token of each running answer
  double tokens_per_answer() const { return answer_; }
  double cached_share() const { return cached_; }  // of prompts, by tokens

  struct Throughput {
    double prompt = 0, answer = 0;  // tokens per second
  };
  // Over the last kSeconds whole seconds.
  Throughput throughput(Clock::time_point now) const;

 private:
  static constexpr int kSeconds = 5;
  struct Second {
    std::int64_t number = -1;
    std::int64_t prompt = 0, answer = 0;
  };
  static std::int64_t second(Clock::time_point now);

  double prompt_token_ = 0, decode_ = 0, answer_ = 0, cached_ = 0;
  std::array<Second, kSeconds + 1> seconds_;
};

}  // namespace ashlar::engine
