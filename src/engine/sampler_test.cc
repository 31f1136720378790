#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

namespace ashlar::engine {
namespace {

using testing::HasSubstr;
using Row = std::vector<float>;

Row random_row(std::size_t size, unsigned seed, float spread = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  Row row(size);
  for (float& logit : row) logit = normal(random);
  return row;
}

struct Asked {
  Sampling sampling;
  int min_tokens = 0;
  std::vector<std::int32_t> ends;
  int logprobs = -1;
  int stream = 0;
  std::vector<std::int32_t> prompt;
};

Sampler sampler(Asked asked) {
  return Sampler(asked.sampling, asked.min_tokens, asked.ends, asked.logprobs, asked.stream, asked.prompt);
}

std::int32_t once(Asked asked, const Row& row) {
  Sampler::Scratch scratch;
  return sampler(std::move(asked)).sample(row, scratch)->id;
}

// What plain formulas give: each id's probability, by sorting everything.
std::map<std::int32_t, double> reference(const Row& logits, const Sampling& s) {
  struct One {
    std::int32_t id;
    double p;
  };
  std::vector<One> all;
  for (std::size_t i = 0; i < logits.size(); ++i)
    all.push_back({static_cast<std::int32_t>(i), std::exp(static_cast<double>(logits[i]) / s.temperature)});
  std::ranges::sort(all, [](const One& a, const One& b) { return a.p != b.p ? a.p > b.p : a.id < b.id; });
  const auto normalize = [&] {
    double total = 0;
    for (const One& one : all) total += one.p;
    for (One& one : all) one.p /= total;
  };
  normalize();
  const double most = all[0].p;
  std::erase_if(all, [&](const One& one) { return one.p < s.min_p * most; });
  if (s.top_k > 0 && static_cast<std::size_t>(s.top_k) < all.size()) all.resize(static_cast<std::size_t>(s.top_k));
  normalize();
  const auto keep = [&](double share) {
    double sum = 0;
    std::size_t kept = 0;
    while (kept < all.size() && sum < share) sum += all[kept++].p;
    all.resize(std::max<std::size_t>(1, kept));
    normalize();
  };
  if (s.top_p < 1) keep(s.top_p);
  if (s.typical_p < 1) {
    double entropy = 0;
    for (const One& one : all) entropy -= one.p * std::log(one.p);
    const auto oddness = [&](const One& one) { return std::abs(-std::log(one.p) - entropy); };
    std::ranges::sort(all, [&](const One& a, const One& b) { return oddness(a) < oddness(b); });
    keep(s.typical_p);
  }
  std::map<std::int32_t, double> out;
  for (const One& one : all) out[one.id] = one.p;
  return out;
}

// Draws many times and holds the counts against `expected` by chi-square.
void expect_distribution(const Row& row, Sampling sampling, const std::map<std::int32_t, double>& expected) {
  sampling.seed = 11;
  Sampler drawing = sampler({.sampling = sampling});
  Sampler::Scratch scratch;
  constexpr int kDraws = 4'000;
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[drawing.sample(row, scratch)->id];
  for (const auto& [id, count] : counts) EXPECT_TRUE(expected.contains(id)) << "token " << id << " is outside";
  double chi = 0, freedom = -1;
  for (const auto& [id, p] : expected) {
    const double mean = p * kDraws;
    if (mean < 5) continue;
    const double off = counts[id] - mean;
    chi += off * off / mean;
    freedom += 1;
  }
  // Some five standard deviations: a fixed seed passes or not for ever.
  EXPECT_LT(chi, freedom + 5 * std::sqrt(2 * std::max(1.0, freedom)) + 1) << freedom;
}

TEST(VectorMath, ExponentialsAreRight) {
  Row row;
  for (float x = 0; x > -100; x -= 0.37F) row.push_back(x);
  Row out(row.size());
  const double sum = exponentials(row, 0, 1, out);
  double expected = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double right = row[i] < -87 ? 0 : std::exp(static_cast<double>(row[i]));
    EXPECT_NEAR(out[i], right, 4e-7 * right) << row[i];
    expected += right;
  }
  EXPECT_NEAR(sum, expected, 1e-5);
  const float never = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(exponentials({&never, 1}, 3, 1, out), 0);
}

TEST(VectorMath, TopScoresAgreeWithASort) {
  for (const std::size_t size : {1u, 7u, 16u, 1000u, 9000u}) {
    Row row = random_row(size, static_cast<unsigned>(size));
    for (float& value : row) value = std::round(value);  // many are equal
    std::vector<Scored> sorted;
    for (std::size_t i = 0; i < size; ++i) sorted.push_back({row[i], static_cast<std::int32_t>(i)});
    std::ranges::sort(
        sorted, [](const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; });
    for (const int count : {0, 1, 5, 20, 300, 5000}) {
      std::vector<Scored> top;
      top_scores(row, count, top);
      ASSERT_EQ(top.size(), std::min<std::size_t>(size, static_cast<std::size_t>(count)));
      for (std::size_t i = 0; i < top.size(); ++i) EXPECT_EQ(top[i].id, sorted[i].id);
    }
  }
}

TEST(VectorMath, ThePeakIsTheLowestOfEquals) {
  EXPECT_EQ(peak(Row{1, 5, 3, 5}).id, 1);
  EXPECT_EQ(peak(Row{}).id, -1);
  const float never = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(peak(Row(2000, never)).id, -1);
  for (const std::size_t at : {0u, 777u, 1024u, 2999u}) {
    Row row(3000, -2);
    row[at] = row[2999] = 4;
    EXPECT_EQ(peak(row).id, static_cast<std::int32_t>(at));
    EXPECT_EQ(peak(row).value, 4);
    EXPECT_TRUE(peak(row).finite);
    row[1500] = never;
    EXPECT_EQ(peak(row).id, static_cast<std::int32_t>(at));
    EXPECT_FALSE(peak(row).finite);
  }
}

TEST(VectorMath, KeepsWhatIsLargeEnough) {
  Row row(1000, 0.25F);
  row[63] = row[64] = row[999] = 0.5F;
  row[70] = 0;
  std::vector<Scored> kept;
  keep_from(row, 0.5F, kept);
  ASSERT_EQ(kept.size(), 3u);
  EXPECT_EQ(kept[2].id, 999);
  keep_from(row, 0, kept);
  EXPECT_EQ(kept.size(), 999u);
}

TEST(VectorMath, FindsWhatIsNotFinite) {
  Row row = random_row(1001, 1);
  EXPECT_TRUE(all_finite(row));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()})
    for (const std::size_t at : {0u, 500u, 1000u}) {
      Row broken = row;
      broken[at] = bad;
      EXPECT_FALSE(all_finite(broken));
    }
}

TEST(Sampler, TemperatureZeroTakesTheLargest) { EXPECT_EQ(once({.sampling = {.temperature = 0}}, {0, 3, 1, 3}), 1); }

TEST(Sampler, DrawsBySoftmax) {
  const Row row = random_row(50, 2, 1);
  for (const float temperature : {0.5F, 1.0F, 2.0F})
    expect_distribution(row, {.temperature = temperature}, reference(row, {.temperature = temperature}));
}

// Rows of many stretches, with little in most of them.
TEST(Sampler, DrawsFromAWideVocabulary) {
  Row flat(5'000, -120);
  for (std::size_t id = 3'000; id < 3'010; ++id) flat[id] = 0;
  std::array<int, 10> counts{};
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const std::int32_t id = once({.sampling = {.seed = seed}}, flat);
    ASSERT_TRUE(id >= 3'000 && id < 3'010) << id;
    ++counts[static_cast<std::size_t>(id - 3'000)];
    if (seed >= 50) continue;
    const std::int32_t first = once({.sampling = {.top_p = 0.35F, .seed = seed}}, flat);
    EXPECT_TRUE(first >= 3'000 && first < 3'004) << "of equal ones the lowest ids";
    EXPECT_TRUE(once({.sampling = {.top_k = 700, .typical_p = 0.9F, .seed = seed}}, flat) / 10 == 300);
  }
  for (const int count : counts) EXPECT_NEAR(count, 50, 30);
}

TEST(Sampler, TopKKeepsTheKBest) {
  const Row row = random_row(100, 3, 1);
  const Sampling sampling{.top_k = 7};
  EXPECT_EQ(reference(row, sampling).size(), 7u);
  expect_distribution(row, sampling, reference(row, sampling));
  Sampling all{.top_k = 1000};
  expect_distribution(random_row(30, 3, 1), all, reference(random_row(30, 3, 1), {}));
}

TEST(Sampler, TopPKeepsTheFewestThatHoldP) {
  const Row row = random_row(100, 4, 2);
  for (const float p : {0.05F, 0.5F, 0.9F, 0.99F}) {
    const Sampling sampling{.top_p = p};
    expect_distribution(row, sampling, reference(row, sampling));
  }
}

TEST(Sampler, MinPIsAShareOfTheBest) {
  const Row row = random_row(100, 5, 2);
  const Sampling sampling{.min_p = 0.1F};
  expect_distribution(row, sampling, reference(row, sampling));
}

TEST(Sampler, TypicalKeepsTheLeastSurprising) {
  const Row row = random_row(100, 6, 2);
  const Sampling sampling{.typical_p = 0.6F};
  expect_distribution(row, sampling, reference(row, sampling));
}

TEST(Sampler, FiltersCombine) {
  const Row row = random_row(120, 7, 2);
  for (const Sampling& sampling : {Sampling{.temperature = 0.7F, .top_k = 40, .top_p = 0.9F, .min_p = 0.02F},
                                   Sampling{.temperature = 1.5F, .top_p = 0.8F, .min_p = 0.05F, .typical_p = 0.9F}})
    expect_distribution(row, sampling, reference(row, sampling));
}

TEST(Sampler, OneSeedGivesOneSequence) {
  Sampler::Scratch scratch;
  const auto draw = [&](std::optional<std::uint64_t> seed, int stream) {
    Sampler drawing = sampler({.sampling = {.seed = seed}, .stream = stream});
    std::vector<std::int32_t> ids;
    for (unsigned i = 0; i < 20; ++i) ids.push_back(drawing.sample(random_row(500, i, 1), scratch)->id);
    return ids;
  };
  EXPECT_EQ(draw(5, 0), draw(5, 0));
  EXPECT_NE(draw(5, 0), draw(6, 0));
  EXPECT_NE(draw(5, 0), draw(5, 1)) << "choices differ";
  EXPECT_NE(draw(std::nullopt, 0), draw(std::nullopt, 0));
}

TEST(Sampler, PenaltiesAreVllms) {
  Sampler::Scratch scratch;
  // Repetition: over prompt and answer; positive logits are divided, negative multiplied.
  Sampler repetition = sampler({.sampling = {.temperature = 0, .repetition_penalty = 2}, .prompt = {0, 0, 3}});
  const Row row = {4, 3, 2.5F, -1};
  EXPECT_EQ(repetition.sample(row, scratch)->id, 1) << "0 has 2 now";
  EXPECT_EQ(repetition.sample(row, scratch)->id, 2) << "1 has 1.5 now";
  EXPECT_EQ(repetition.sample(row, scratch)->id, 0) << "2 has 1.25 now";
  // Presence: once; frequency: each time; over the answer alone.
  Sampler presence = sampler({.sampling = {.temperature = 0, .presence_penalty = 1.5F}, .prompt = {0}});
  const Row two = {2, 1, -9};
  EXPECT_EQ(presence.sample(two, scratch)->id, 0);
  EXPECT_EQ(presence.sample(two, scratch)->id, 1);
  EXPECT_EQ(presence.sample(two, scratch)->id, 0) << "0.5 against -0.5, and it sinks no further";
  EXPECT_EQ(presence.sample(two, scratch)->id, 0);
  Sampler frequency = sampler({.sampling = {.temperature = 0, .frequency_penalty = 0.6F}});
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(frequency.sample(two, scratch)->id);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 0, 1, 0, 1, 0}));
}

TEST(Sampler, BiasAndAllowedTokensSteer) {
  const Row row = {5, 4, 3, 2};
  EXPECT_EQ(once({.sampling = {.temperature = 0, .logit_bias = {{3, 100}}}}, row), 3);
  EXPECT_EQ(once({.sampling = {.temperature = 0, .logit_bias = {{0, -100}, {1, -100}}}}, row), 2);
  EXPECT_EQ(once({.sampling = {.temperature = 0, .allowed_token_ids = {2, 3}}}, row), 2);
  for (std::uint64_t seed = 0; seed < 100; ++seed)
    EXPECT_GE(once({.sampling = {.allowed_token_ids = {2, 3}, .seed = seed}}, row), 2);
}

TEST(Sampler, MinTokensHoldsTheEndBack) {
  Sampler::Scratch scratch;
  Sampler held = sampler({.sampling = {.temperature = 0}, .min_tokens = 2, .ends = {0, 1}});
  const Row row = {5, 4, 3};
  EXPECT_EQ(held.sample(row, scratch)->id, 2);
  EXPECT_EQ(held.sample(row, scratch)->id, 2);
  EXPECT_EQ(held.sample(row, scratch)->id, 0);
}

TEST(Sampler, SaysSoWhenNothingMayBeChosen) {
  Sampler::Scratch scratch;
  for (const float temperature : {0.0F, 1.0F}) {
    const auto none =
        sampler({.sampling = {.temperature = temperature, .allowed_token_ids = {1}}, .min_tokens = 5, .ends = {1}})
            .sample(Row{1, 2, 3}, scratch);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, Code::invalid);
  }
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
  Sampler::Scratch scratch;
  const auto broken = sampler({}).sample(Row{1, std::numeric_limits<float>::quiet_NaN()}, scratch);
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, Code::internal);
  EXPECT_THAT(broken.error().message, HasSubstr("not finite"));
}

TEST(Sampler, ExtremeLogitsAndTemperaturesStayFinite) {
  const Row row = {3e38F, -3e38F, 0};
  EXPECT_EQ(once({.sampling = {.temperature = 1e-4F}}, row), 0);
  EXPECT_EQ(once({.sampling = {.temperature = 1e-4F, .top_k = 2}}, row), 0);
  EXPECT_EQ(once({.sampling = {.temperature = 100, .top_p = 0.5F}}, row), 0);
}

TEST(Sampler, LogprobsAreThoseOfTheRawLogits) {
  const Row row = random_row(1000, 8);
  double total = 0;
  for (const float logit : row) total += std::exp(static_cast<double>(logit));
  Sampler::Scratch scratch;
  Sampler drawing = sampler(
      {.sampling = {.temperature = 0.3F, .top_k = 3, .repetition_penalty = 1.5F, .logit_bias = {{7, 50}}, .seed = 1},
       .logprobs = 5});
  const auto sampled = drawing.sample(row, scratch);
  EXPECT_EQ(sampled->id, 7);
  EXPECT_NEAR(sampled->logprobs.chosen, row[7] - std::log(total), 1e-5);
  ASSERT_EQ(sampled->logprobs.top.size(), 5u);
  std::vector<float> sorted = row;
  std::ranges::sort(sorted, std::greater());
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(row[static_cast<std::size_t>(sampled->logprobs.top[i].id)], sorted[i]);
    EXPECT_NEAR(sampled->logprobs.top[i].score, sorted[i] - std::log(total), 1e-5);
  }
}

TEST(Random, IsUniform) {
  Random random(1, 2);
  std::vector<int> buckets(16);
  for (int i = 0; i < 160'000; ++i) ++buckets[static_cast<std::size_t>(random.uniform() * 16)];
  for (const int count : buckets) EXPECT_NEAR(count, 10'000, 500);
}

}  // namespace
}  // namespace ashlar::engine
