#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace ashlar::engine {
namespace {

constexpr float kGreedyBelow = 1e-5F;  // a temperature that no float arithmetic tells from 0

std::uint64_t splitmix(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::uint64_t any_seed() {
  thread_local std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

double weight(const std::vector<Scored>& candidates) {
  double total = 0;
  for (const Scored& candidate : candidates) total += candidate.score;
  return total;
}

// Keeps those that come first by `before`, as few as weigh `enough` together, and
// at least one; in any order. Halves what is in question again and again, so
// that nothing is sorted: linear in their number.
template <class Item, class Before, class Weight>
void keep_first(std::vector<Item>& items, double enough, Before before, Weight weight_of) {
  auto sure = items.begin(), end = items.end();  // [begin, sure) stay, [end, ...) go
  while (end - sure > 1) {
    const auto middle = sure + (end - sure) / 2;
    std::ranges::nth_element(sure, middle, end, before);
    double half = 0;
    for (auto item = sure; item != middle; ++item) half += weight_of(*item);
    if (half >= enough) {
      end = middle;
    } else {
      enough -= half;
      sure = middle;
    }
  }
  items.erase(end, items.end());
}

bool heavier(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

// Locally typical sampling (Meister et al., 2022): those first whose surprise is
// closest to the entropy.
void keep_typical(std::vector<Scored>& candidates, double share, std::vector<Odd>& odd) {
  const double total = weight(candidates);
  double entropy = 0;
  odd.clear();
  for (const Scored& candidate : candidates) {
    const double surprise = -std::log(candidate.score / total);
    odd.push_back({surprise, candidate});
    entropy += candidate.score / total * surprise;
  }
  for (Odd& one : odd) one.oddness = std::abs(one.oddness - entropy);
  keep_first(
      odd, share * total,
      [](const Odd& a, const Odd& b) {
        return a.oddness != b.oddness ? a.oddness < b.oddness : a.candidate.id < b.candidate.id;
      },
      [](const Odd& one) { return one.candidate.score; });
  candidates.clear();
  for (const Odd& one : odd) candidates.push_back(one.candidate);
}

}  // namespace

Random::Random(std::uint64_t seed, std::uint64_t stream) {
  std::uint64_t state = seed;
  state = splitmix(state) ^ (stream * 0xd1342543de82ef95);
  for (std::uint64_t& word : s_) word = splitmix(state);
}

std::uint64_t Random::next() {
  const std::uint64_t result = std::rotl(s_[1] * 5, 7) * 9;
  const std::uint64_t t = s_[1] << 17;
  s_[2] ^= s_[0], s_[3] ^= s_[1], s_[1] ^= s_[2], s_[0] ^= s_[3];
  s_[2] ^= t, s_[3] = std::rotl(s_[3], 45);
  return result;
}

RawLogprobs raw_logprobs(std::span<const float> row, std::int32_t chosen, int top) {
  const double norm = log_sum_exp(row, largest(row));
  RawLogprobs out{.chosen = static_cast<float>(row[static_cast<std::size_t>(chosen)] - norm)};
  top_scores(row, top, out.top);
  for (Scored& scored : out.top) scored.score = static_cast<float>(scored.score - norm);
  return out;
}

Sampler::Sampler(Sampling sampling, int min_tokens, std::vector<std::int32_t> ends, int logprobs, int stream,
                 std::span<const std::int32_t> prompt)
    : sampling_(std::move(sampling)),
      min_tokens_(min_tokens),
      ends_(std::move(ends)),
      logprobs_(logprobs),
      random_(sampling_.seed ? *sampling_.seed : any_seed(), static_cast<std::uint64_t>(stream)),
      penalties_(sampling_.repetition_penalty != 1 || sampling_.presence_penalty != 0 ||
                 sampling_.frequency_penalty != 0),
      repetition_(sampling_.repetition_penalty != 1) {
  if (repetition_) {
    prompt_tokens_.assign(prompt.begin(), prompt.end());
    std::ranges::sort(prompt_tokens_);
    const auto repeated = std::ranges::unique(prompt_tokens_);
    prompt_tokens_.erase(repeated.begin(), repeated.end());
  }
}

bool Sampler::changes_logits() const {
  return penalties_ || produced_ < min_tokens_ || !sampling_.logit_bias.empty() || !sampling_.allowed_token_ids.empty();
}

std::span<const float> Sampler::adjust(std::span<const float> logits, Scratch& scratch) const {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  std::vector<float>& out = scratch.logits;
  const auto inside = [&](std::int32_t id) { return id >= 0 && static_cast<std::size_t>(id) < logits.size(); };
  const auto at = [&](std::int32_t id) -> float& { return out[static_cast<std::size_t>(id)]; };
  if (sampling_.allowed_token_ids.empty()) {
    out.assign(logits.begin(), logits.end());
  } else {
    out.assign(logits.size(), kNever);
    for (const std::int32_t id : sampling_.allowed_token_ids)
      if (inside(id)) at(id) = logits[static_cast<std::size_t>(id)];
  }
  if (produced_ < min_tokens_)
    for (const std::int32_t id : ends_)
      if (inside(id)) at(id) = kNever;
  for (const auto& [id, bias] : sampling_.logit_bias)
    if (inside(id)) at(id) += bias;
  if (repetition_) {
    const auto repeat = [&](std::int32_t id) {
      float& logit = at(id);
      logit = logit > 0 ? logit / sampling_.repetition_penalty : logit * sampling_.repetition_penalty;
    };
    for (const std::int32_t id : prompt_tokens_)
      if (inside(id)) repeat(id);
    for (const auto& [id, count] : answered_)
      if (!std::ranges::binary_search(prompt_tokens_, id)) repeat(id);
  }
  for (const auto& [id, count] : answered_)
    at(id) -= sampling_.frequency_penalty * static_cast<float>(count) + sampling_.presence_penalty;
  return out;
}

Error Sampler::not_finite() {
  return {Code::internal, "the model's output is not finite: its weights are damaged, or its activations overflow"};
}

Result<Sampler::Sampled> Sampler::sample(std::span<const float> logits, Scratch& scratch) {
  Peak best = peak(logits);
  if (!best.finite) return not_finite();
  std::span<const float> adjusted = logits;
  if (changes_logits()) {
    adjusted = adjust(logits, scratch);
    best = peak(adjusted);
  }
  Sampled sampled{.id = best.id};
  if (best.id >= 0 && sampling_.temperature >= kGreedyBelow) sampled.id = draw(adjusted, best, scratch);
  if (sampled.id < 0)
    return Error{Code::invalid,
                 "no token may be chosen: allowed_token_ids leaves none while min_tokens holds the end back"};
  if (logprobs_ >= 0) sampled.logprobs = raw_logprobs(logits, sampled.id, logprobs_);
  if (penalties_) ++answered_[sampled.id];
  ++produced_;
  return sampled;
}

std::int32_t Sampler::draw(std::span<const float> logits, const Peak& best, Scratch& scratch) {
  const bool some = sampling_.top_k > 0 && static_cast<std::size_t>(sampling_.top_k) < logits.size();
  if (!some && sampling_.min_p <= 0 && sampling_.top_p >= 1 && sampling_.typical_p >= 1) {
    scratch.weights.resize(logits.size());
    const double total = exponentials(logits, best.value, 1 / sampling_.temperature, scratch.weights);
    return pick(scratch.weights, total, best.id);
  }
  const double total = gather(logits, best.value, scratch);
  const auto score = [](const Scored& candidate) { return candidate.score; };
  if (sampling_.top_p < 1) keep_first(scratch.candidates, sampling_.top_p * total, heavier, score);
  if (sampling_.typical_p < 1) keep_typical(scratch.candidates, sampling_.typical_p, scratch.odd);
  return pick(scratch.candidates);
}

// The candidates that min-p and top-k leave, with their weights relative to the
// likeliest (1); returns what they weigh together. Those that top-p drops in any
// case may be missing, but their weight is in the sum.
double Sampler::gather(std::span<const float> logits, float max, Scratch& scratch) const {
  const float scale = 1 / sampling_.temperature;
  std::vector<Scored>& candidates = scratch.candidates;
  if (sampling_.top_k > 0 && static_cast<std::size_t>(sampling_.top_k) < logits.size()) {
    keep_top(logits, sampling_.top_k, candidates);
    for (Scored& candidate : candidates) exponentials({&candidate.score, 1}, max, scale, {&candidate.score, 1});
    std::erase_if(candidates, [&](const Scored& c) { return c.score <= 0 || c.score < sampling_.min_p; });
    return weight(candidates);
  }
  scratch.weights.resize(logits.size());
  const double total = exponentials(logits, max, scale, scratch.weights);
  // All that weigh less than this together weigh less than top-p leaves out, so none of them stays.
  const bool prune = sampling_.top_p < 1 && sampling_.min_p <= 0;
  const float least = prune ? static_cast<float>((1.0 - sampling_.top_p) * total / static_cast<double>(logits.size()))
                            : sampling_.min_p;
  keep_from(scratch.weights, least, candidates);
  return prune ? total : weight(candidates);
}

std::int32_t Sampler::pick(const std::vector<Scored>& candidates) {
  double left = random_.uniform() * weight(candidates);
  for (const Scored& candidate : candidates) {
    left -= candidate.score;
    if (left < 0) return candidate.id;
  }
  return candidates.back().id;
}

// Out of all tokens, without looking at each: whole stretches are passed over by their sums.
std::int32_t Sampler::pick(std::span<const float> weights, double total, std::int32_t likeliest) {
  constexpr std::size_t kStretch = 1024;
  double left = random_.uniform() * total;
  std::size_t begin = 0;
  for (; weights.size() - begin > kStretch; begin += kStretch) {
    const double stretch = sum(weights.subspan(begin, kStretch));
    if (left < stretch) break;
    left -= stretch;
  }
  for (std::size_t id = begin; id < weights.size(); ++id) {
    left -= weights[id];
    if (left < 0) return static_cast<std::int32_t>(id);
  }
  return likeliest;  // rounding, once in 2^50 or so
}

}  // namespace ashlar::engine
