#include "gateway/rollout/shadow_findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <variant>

#include "base/json_full.h"
#include "engine/prefixes.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostText = 64 << 10;    // of an answer that is compared
constexpr std::size_t kMostExample = 4 << 10;  // of a text in the report

std::string example_of(std::string text) {
  std::size_t length = std::min(text.size(), kMostExample);
  while (length > 0 && length < text.size() && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) --length;
  text.resize(length);
  return text;
}

}  // namespace

void ShadowAnswer::add(std::string_view more) { text += more.substr(0, kMostText - std::min(kMostText, text.size())); }

void ShadowAnswer::take(const engine::Event& event, TimePoint now) {
  if (const auto* failed = std::get_if<engine::Failed>(&event)) {
    error = failed->error;
    over = true;
    return;
  }
  if (const auto* finished = std::get_if<engine::Finished>(&event)) {
    usage = finished->usage;
    over = true;
    return;
  }
  const bool says = std::holds_alternative<engine::Text>(event) || std::holds_alternative<engine::Reasoning>(event) ||
                    std::holds_alternative<engine::ToolCall>(event);
  if (says) {
    if (!first) first = now;
    last = now;
  }
  if (const auto* piece = std::get_if<engine::Text>(&event); piece != nullptr && piece->choice == 0) {
    tokens += piece->ids.empty() ? 1 : static_cast<int>(piece->ids.size());
    add(piece->text);
  } else if (const auto* call = std::get_if<engine::ToolCall>(&event); call != nullptr && call->choice == 0) {
    if (!call->name.empty()) add(fmt::format("\n{} ", call->name));
    add(call->arguments);
  } else if (const auto* end = std::get_if<engine::ChoiceEnd>(&event); end != nullptr && end->choice == 0) {
    finish = engine::name(end->reason);
  }
}

void ShadowFindings::Side::add(const ShadowAnswer& answer) {
  if (answer.error) {
    ++failed;
    return;
  }
  length.add(answer.usage.completion_tokens > 0 ? answer.usage.completion_tokens : answer.tokens);
  if (const auto seconds = answer.first_token_seconds()) first_token.add(*seconds);
  if (const auto seconds = answer.seconds_per_token()) between_tokens.add(*seconds);
}

Json ShadowFindings::Side::json() const {
  Json out{{"failed", failed}, {"mean_tokens", length.mean()}};
  const auto times = [&](const char* name, const Latencies& of) {
    if (of.count() > 0) out[name] = {{"p50", of.quantile(0.5)}, {"p95", of.quantile(0.95)}};
  };
  times("ttft_seconds", first_token);
  times("itl_seconds", between_tokens);
  return out;
}

bool ShadowFindings::take_place() {
  const bool free = under_way_.fetch_add(1) < plan_.concurrency;
  const std::lock_guard lock(mutex_);
  if (free) {
    ++copied_;
  } else {
    under_way_.fetch_sub(1);
    ++busy_;
    metrics_.dropped.add();
  }
  return free;
}

void ShadowFindings::seen() {
  const std::lock_guard lock(mutex_);
  ++seen_;
}

void ShadowFindings::hidden() {
  const std::lock_guard lock(mutex_);
  ++hidden_;
}

void ShadowFindings::left() {
  const std::lock_guard lock(mutex_);
  ++left_;
  metrics_.dropped.add();
}

void ShadowFindings::add(const engine::Request& request, const ShadowAnswer& theirs, const ShadowAnswer& ours) {
  const bool compares = plan_.compare && !ours.error && !theirs.error;
  const AnswerDiff diff =
      compares ? diff_answers(theirs.text, ours.text) : AnswerDiff{};  // it takes its time: without the lock
  const std::lock_guard lock(mutex_);
  ++ended_;
  client_.add(theirs);
  shadow_.add(ours);
  prompt_tokens_ += ours.usage.prompt_tokens;
  completion_tokens_ += ours.usage.completion_tokens;
  metrics_.prompt.add(static_cast<std::uint64_t>(std::max(0, ours.usage.prompt_tokens)));
  metrics_.completion.add(static_cast<std::uint64_t>(std::max(0, ours.usage.completion_tokens)));
  (ours.error ? metrics_.failed : metrics_.compared).add();
  if (ours.error && theirs.error) ++both_failed_;
  if (ours.error && !theirs.error) ++only_shadow_failed_;
  if (!ours.error && theirs.error) ++only_client_failed_;
  if (compares) compare(request, theirs, ours, diff);
}

void ShadowFindings::compare(const engine::Request& request, const ShadowAnswer& theirs, const ShadowAnswer& ours,
                             const AnswerDiff& diff) {
  const bool same = theirs.text == ours.text;
  const bool drawn = request.sampling.temperature > 0;
  ++compared_;
  same_text_ += same ? 1 : 0;
  same_finish_ += theirs.finish == ours.finish ? 1 : 0;
  greedy_ += drawn ? 0 : 1;
  greedy_same_ += same && !drawn ? 1 : 0;
  agreement_.add(diff.agreement);
  prefix_.add(diff.prefix);
  if (!plan_.keep_texts || plan_.examples == 0 || (same && theirs.finish == ours.finish)) return;
  if (std::ssize(examples_) >= plan_.examples) examples_.pop_front();
  examples_.push_back({{"agreement", diff.agreement},
                       {"prefix", diff.prefix},
                       {"temperature", request.sampling.temperature},
                       {"prompt", example_of(engine::text_of(request.prompt, kMostExample))},
                       {"client", {{"finish_reason", theirs.finish}, {"text", example_of(theirs.text)}}},
                       {"shadow", {{"finish_reason", ours.finish}, {"text", example_of(ours.text)}}}});
}

Json ShadowFindings::json() const {
  const std::lock_guard lock(mutex_);
  Json out{{"route", route_},
           {"to", plan_.to},
           {"share", plan_.share},
           {"requests", seen_},
           {"copied", copied_},
           {"under_way", under_way_.load()},
           {"dropped", {{"busy", busy_}, {"data_class", hidden_}, {"client_left", left_}}},
           {"answered", ended_},
           {"failures",
            {{"shadow_alone", only_shadow_failed_}, {"client_alone", only_client_failed_}, {"both", both_failed_}}},
           {"client", client_.json()},
           {"shadow", shadow_.json()},
           {"shadow_tokens", {{"prompt", prompt_tokens_}, {"completion", completion_tokens_}}}};
  if (!plan_.compare) return out;
  out["compared"] = {{"answers", compared_},
                     {"same_text", same_text_},
                     {"same_finish_reason", same_finish_},
                     {"at_temperature_0", {{"answers", greedy_}, {"same_text", greedy_same_}}},
                     {"agreement", agreement_.mean()},
                     {"common_prefix", prefix_.mean()}};
  if (plan_.keep_texts) {
    Json list = Json::array();
    for (const Json& each : examples_) list.push_back(each);
    out["examples"] = std::move(list);
  }
  return out;
}

}  // namespace ashlar::gateway
