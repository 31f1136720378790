// One choice's tokens become events: text in whole characters with the ids and
// log-probabilities that gave it, until something ends it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/generator.h"
#include "engine/stop_matcher.h"
#include "text/tokenizer.h"

namespace ashlar::engine {

// What all choices of a request end by.
struct Ends {
  std::shared_ptr<const StopStrings> strings;
  std::vector<std::int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;
  int min_tokens = 0;
  int max_tokens = 0;  // resolved: never -1
};

// Engine thread only. `tokenizer` is borrowed.
class Answer {
 public:
  Answer(const text::Tokenizer& tokenizer, Ends ends, int choice, bool skip_special_tokens);

  struct Progress {
    std::optional<Text> text;      // to show now
    std::optional<ChoiceEnd> end;  // this was the last token
  };
  // The next token; `logprob` if logprobs were asked.
  Progress push(std::int32_t id, std::optional<TokenLogprob> logprob);

  int tokens() const { return tokens_; }

 private:
  Progress finish(ChoiceEnd end, std::string text);
  Progress show(std::string text);

  Ends ends_;
  int choice_;
  const text::Tokenizer& tokenizer_;
  text::StreamDecoder decoder_;
  StopMatcher matcher_;
  Text pending_;  // tokens whose text is not out yet
  int tokens_ = 0;
};

}  // namespace ashlar::engine
