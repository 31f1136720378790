// A request at work: its choices, and what is to be told about it at the end.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/adapters.h"
#include "engine/admission.h"
#include "engine/answer.h"
#include "engine/generator.h"
#include "engine/outlet.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/speculation.h"

namespace ashlar::engine {

struct Job;

// One of the n answers.
struct Choice : Sequence {
  Choice(Job& owner, int number, Sampler its_sampler, Answer its_answer)
      : job(owner), index(number), sampler(std::move(its_sampler)), answer(std::move(its_answer)) {}
  Job& job;
  int index = 0;
  Sampler sampler;
  Answer answer;
  Guesses guesses;
  Clock::time_point last_token;
};

// Made on the caller's thread, then the engine thread's alone, but for the outlet.
struct Job {
  std::shared_ptr<const ServedAdapter> adapter;  // null: the model alone
  std::shared_ptr<Outlet> outlet;
  std::vector<std::unique_ptr<Choice>> choices;  // the first computes the prompt for all
  Admission::Entry entry;                        // its weight while it waits
  std::size_t slot = 0;                          // where the engine keeps it
  Clock::time_point deadline = Clock::time_point::max();

  // What was asked.
  int prompt_tokens = 0;
  int max_tokens = 0;
  int logprobs = -1, prompt_logprobs = -1;
  bool give_prompt_ids = false;
  std::optional<std::string> echo;  // the prompt's text, to come first

  // What happened.
  std::vector<TokenLogprob> prompt_scores;
  Clock::time_point arrived, queued;
  std::optional<Clock::time_point> began, first_token;  // its first step; the end of its prompt
  int open_choices = 0;
  bool broken = false;                       // its prompt's logits were not finite
  FinishReason reason = FinishReason::stop;  // of the choice that ended last
};

}  // namespace ashlar::engine
