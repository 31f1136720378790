#include "engine/answer.h"

#include <algorithm>

namespace ashlar::engine {

Answer::Answer(const text::Tokenizer& tokenizer, Ends ends, int choice, bool skip_special_tokens)
    : ends_(std::move(ends)),
      choice_(choice),
      tokenizer_(tokenizer),
      decoder_(tokenizer, !skip_special_tokens),
      matcher_(ends_.strings, ends_.include_stop) {}

Answer::Progress Answer::push(std::int32_t id, std::optional<TokenLogprob> logprob) {
  ++tokens_;
  pending_.ids.push_back(id);
  if (logprob) pending_.logprobs.push_back(std::move(*logprob));

  ChoiceEnd end{.choice = choice_};
  if (tokens_ >= ends_.min_tokens) {
    const bool listed = std::ranges::find(ends_.stop_token_ids, id) != ends_.stop_token_ids.end();
    if (listed) end.stop_token = id;
    if (listed || (!ends_.ignore_eos && tokenizer_.is_end(id))) {
      // The token that ends the answer is no part of its text unless that was asked.
      std::string text = matcher_.finish();
      if (ends_.include_stop) text.append(decoder_.push(id));
      return finish(std::move(end), text.append(decoder_.finish()));
    }
  }
  StopMatcher::Released released = tokens_ <= ends_.min_tokens
                                       ? StopMatcher::Released{.text = matcher_.pass(decoder_.push(id))}
                                       : matcher_.push(decoder_.push(id));
  if (released.stop >= 0) {
    end.stop_string = (*ends_.strings)[static_cast<std::size_t>(released.stop)];
    return finish(std::move(end), std::move(released.text));
  }
  if (tokens_ < ends_.max_tokens) return show(std::move(released.text));
  end.reason = FinishReason::length;
  return finish(std::move(end), released.text.append(matcher_.finish()).append(decoder_.finish()));
}

Answer::Progress Answer::finish(ChoiceEnd end, std::string text) {
  pending_.text = std::move(text);
  pending_.choice = choice_;
  return {.text = std::exchange(pending_, {}), .end = std::move(end)};
}

Answer::Progress Answer::show(std::string text) {
  if (text.empty()) return {};
  pending_.text = std::move(text);
  pending_.choice = choice_;
  return {.text = std::exchange(pending_, {})};
}

}  // namespace ashlar::engine
