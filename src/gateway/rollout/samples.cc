#include "gateway/rollout/samples.h"

#include <algorithm>
#include <cmath>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

constexpr double kLeast = 1e-5, kRatio = 1.05;

// A count of what was kept: nothing else is believed.
std::int64_t count_of(const Json& json) {
  return json.is_number_integer() ? std::clamp<std::int64_t>(json.get<std::int64_t>(), 0, 1'000'000'000'000) : 0;
}

double number_of(const Json& json) { return json.is_number() ? json.get<double>() : 0; }

}  // namespace

int Latencies::bucket(double seconds) {
  if (!(seconds > kLeast)) return 0;
  return std::min(kBuckets - 1, static_cast<int>(std::log(seconds / kLeast) / std::log(kRatio)) + 1);
}

double Latencies::upper(int bucket) { return kLeast * std::pow(kRatio, bucket); }

void Latencies::add(double seconds) {
  ++counts_[static_cast<std::size_t>(bucket(seconds))];
  ++count_;
}

double Latencies::quantile(double share) const {
  const double wanted = std::clamp(share, 0.0, 1.0) * static_cast<double>(count_);
  std::int64_t below = 0;
  for (int i = 0; i < kBuckets; ++i) {
    below += counts_[static_cast<std::size_t>(i)];
    if (below > 0 && static_cast<double>(below) >= wanted) return upper(i);
  }
  return 0;
}

std::int64_t Latencies::above(double seconds) const {
  std::int64_t sum = 0;
  for (int i = bucket(seconds) + 1; i < kBuckets; ++i) sum += counts_[static_cast<std::size_t>(i)];
  return sum;
}

void Latencies::add(const Latencies& more) {
  for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += more.counts_[i];
  count_ += more.count_;
}

Json Latencies::json() const {
  Json out = Json::array();
  for (int i = 0; i < kBuckets; ++i)
    if (const auto count = counts_[static_cast<std::size_t>(i)]; count > 0) out.push_back(Json::array({i, count}));
  return out;
}

void Latencies::read(const Json& kept) {
  *this = {};
  if (!kept.is_array()) return;
  for (const Json& each : kept) {
    if (!each.is_array() || each.size() != 2) continue;
    const std::int64_t at = count_of(each[0]), count = std::min<std::int64_t>(count_of(each[1]), 1'000'000'000);
    if (at >= kBuckets) continue;
    counts_[static_cast<std::size_t>(at)] = static_cast<std::uint32_t>(count);
    count_ += count;
  }
}

void Moments::add(double value) {
  ++count_;
  const double off = value - mean_;
  mean_ += off / static_cast<double>(count_);
  squares_ += off * (value - mean_);
}

Json Moments::json() const { return Json::array({count_, mean_, squares_}); }

void Moments::read(const Json& kept) {
  *this = {};
  if (!kept.is_array() || kept.size() != 3) return;
  count_ = count_of(kept[0]);
  mean_ = number_of(kept[1]);
  squares_ = std::max(0.0, number_of(kept[2]));
}

void Samples::add(const Samples& more) {
  requests += more.requests;
  errors += more.errors;
  first_token.add(more.first_token);
  between_tokens.add(more.between_tokens);
}

Json Samples::figures() const {
  Json out{{"requests", requests}, {"errors", errors}, {"error_rate", error_rate()}};
  const auto times = [&](const char* name, const Latencies& of) {
    if (of.count() > 0)
      out[name] = {
          {"count", of.count()}, {"p50", of.quantile(0.5)}, {"p95", of.quantile(0.95)}, {"p99", of.quantile(0.99)}};
  };
  times("ttft_seconds", first_token);
  times("itl_seconds", between_tokens);
  if (scores.count() > 0) out["score"] = {{"count", scores.count()}, {"mean", scores.mean()}};
  return out;
}

Json Samples::json() const {
  return {{"requests", requests},
          {"errors", errors},
          {"ttft", first_token.json()},
          {"itl", between_tokens.json()},
          {"scores", scores.json()}};
}

Samples Samples::of(const Json& kept) {
  Samples out;
  if (!kept.is_object()) return out;
  const auto member = [&](const char* name) { return kept.contains(name) ? kept.at(name) : Json(); };
  out.requests = count_of(member("requests"));
  out.errors = std::min(count_of(member("errors")), out.requests);
  out.first_token.read(member("ttft"));
  out.between_tokens.read(member("itl"));
  out.scores.read(member("scores"));
  return out;
}

}  // namespace ashlar::gateway
