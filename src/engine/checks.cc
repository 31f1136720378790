#include "engine/checks.h"

#include <fmt/format.h>

#include <cmath>

#include "base/utf8.h"

namespace ashlar::engine {
namespace {

constexpr int kMostChoices = 128;
constexpr int kMostAlternatives = 20;
constexpr std::size_t kMostStops = 128, kMostStopBytes = 4096;

template <class... Args>
std::unexpected<Error> invalid(fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{Code::invalid, fmt::format(format, std::forward<Args>(args)...)});
}

// NaN is in no range.
Status within(std::string_view name, double value, double least, double most) {
  if (value >= least && value <= most) return {};
  return invalid("{} is {}, but it must be between {} and {}", name, value, least, most);
}

Status check_ids(const Sampling& sampling, int vocabulary) {
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id < 0 || id >= vocabulary)
      return invalid("logit_bias names token {}, but the vocabulary has {}", id, vocabulary);
    TRY(within("logit_bias", bias, -100, 100));
  }
  for (const std::int32_t id : sampling.allowed_token_ids)
    if (id < 0 || id >= vocabulary)
      return invalid("allowed_token_ids names token {}, but the vocabulary has {}", id, vocabulary);
  return {};
}

Status check_stopping(const Stopping& stopping) {
  if (stopping.max_tokens < -1) return invalid("max_tokens is {}, but it cannot be negative", stopping.max_tokens);
  if (stopping.min_tokens < 0) return invalid("min_tokens is {}, but it cannot be negative", stopping.min_tokens);
  if (stopping.max_tokens >= 0 && stopping.min_tokens > stopping.max_tokens)
    return invalid("min_tokens is {}, more than max_tokens, {}", stopping.min_tokens, stopping.max_tokens);
  if (stopping.stop.size() > kMostStops)
    return invalid("stop has {} strings, but at most {} are looked for", stopping.stop.size(), kMostStops);
  for (const std::string& stop : stopping.stop) {
    if (stop.empty()) return invalid("stop has an empty string");
    if (stop.size() > kMostStopBytes)
      return invalid("stop has a string of {} bytes, but at most {} are looked for", stop.size(), kMostStopBytes);
    if (!utf8::is_valid(stop)) return invalid("stop has a string that is not UTF-8");
  }
  return {};
}

}  // namespace

Status check(const Request& request, int vocabulary) {
  const Sampling& sampling = request.sampling;
  TRY(within("n", request.n, 1, kMostChoices));
  TRY(within("temperature", sampling.temperature, 0, 100));
  if (sampling.top_k < -1) return invalid("top_k is {}, but it must be -1 or 0 (all), or more", sampling.top_k);
  if (!(sampling.top_p > 0)) return invalid("top_p is {}, but it must be above 0 and at most 1", sampling.top_p);
  TRY(within("top_p", sampling.top_p, 0, 1));
  TRY(within("min_p", sampling.min_p, 0, 1));
  if (!(sampling.typical_p > 0))
    return invalid("typical_p is {}, but it must be above 0 and at most 1", sampling.typical_p);
  TRY(within("typical_p", sampling.typical_p, 0, 1));
  TRY(within("repetition_penalty", sampling.repetition_penalty, 0.01, 100));
  TRY(within("presence_penalty", sampling.presence_penalty, -100, 100));
  TRY(within("frequency_penalty", sampling.frequency_penalty, -100, 100));
  TRY(within("logprobs", request.logprobs, -1, kMostAlternatives));
  TRY(within("prompt_logprobs", request.prompt_logprobs, -1, kMostAlternatives));
  TRY(check_ids(sampling, vocabulary));
  return check_stopping(request.stopping);
}

Result<int> answer_length(int prompt_tokens, int max_tokens, int context) {
  if (prompt_tokens == 0) return invalid("the prompt has no tokens");
  if (max_tokens == -1 && prompt_tokens >= context)
    return invalid("the prompt has {} tokens, but the context holds {} together with the answer", prompt_tokens,
                   context);
  if (prompt_tokens > context)
    return invalid("the prompt has {} tokens, but the context holds {}", prompt_tokens, context);
  if (max_tokens > context - prompt_tokens)
    return invalid("the prompt has {} tokens and max_tokens asks for {} more, but the context holds {}", prompt_tokens,
                   max_tokens, context);
  return max_tokens == -1 ? context - prompt_tokens : max_tokens;
}

}  // namespace ashlar::engine
