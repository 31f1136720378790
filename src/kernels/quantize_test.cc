// The searches against plain loops in double precision that share nothing with them, and every row of the table
// against ref.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr Type kQuantized[] = {Type::q8_0, Type::q4_0, Type::q4_1, Type::q5_0, Type::q5_1,   Type::q2_k,
                               Type::q3_k, Type::q4_k, Type::q5_k, Type::q6_k, Type::iq4_nl, Type::iq4_xs};

std::vector<float> normal(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, 0.05f);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = draw(random);
  return x;
}

std::vector<float> importances(int n, unsigned seed) {
  std::vector<float> out = normal(n, seed);
  for (float& v : out) v = v * v * 400;
  return out;
}

std::vector<std::byte> quantized(Type type, const std::vector<float>& x, const float* importance = nullptr) {
  std::vector<std::byte> row(row_bytes(type, static_cast<std::int64_t>(x.size())));
  quantize_row(type, x.data(), row.data(), static_cast<std::int64_t>(x.size()), importance);
  return row;
}

double error(Type type, const std::vector<float>& x, const std::vector<std::byte>& row,
             const float* weights = nullptr) {
  std::vector<float> back(x.size());
  dequantize_row(type, row.data(), back.data(), static_cast<std::int64_t>(x.size()));
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    sum += (weights != nullptr ? weights[i] : 1.0) * std::pow(double{back[i]} - double{x[i]}, 2);
  return sum;
}

// The square error of codes in [low, high] with the scale and min that the range gives, in sub-blocks of n.
double error_of_range(const std::vector<float>& x, std::size_t n, int levels, bool with_min) {
  double sum = 0;
  for (std::size_t first = 0; first < x.size(); first += n) {
    double low = 0, high = 0;
    for (std::size_t i = first; i < first + n; ++i) {
      low = std::min(low, double{x[i]});
      high = std::max(high, double{x[i]});
    }
    const double most = -low > high ? low : high;
    const double scale = with_min ? (high - low) / (levels - 1) : most / (-levels / 2.0);
    for (std::size_t i = first; i < first + n; ++i) {
      const double at = with_min ? std::round((x[i] - low) / scale) * scale + low
                                 : std::clamp(std::round(x[i] / scale), -levels / 2.0, levels / 2.0 - 1) * scale;
      sum += std::pow(at - x[i], 2);
    }
  }
  return sum;
}

TEST(Quantizers, SearchedScalesBeatThoseOfTheRange) {
  const std::vector<float> x = normal(8192, 1);
  const struct {
    Type type;
    std::size_t n;
    int levels;
    bool min;
    double most;
  } cases[] = {{Type::q2_k, 16, 4, true, 0.90},  {Type::q3_k, 16, 8, false, 0.96}, {Type::q4_k, 32, 16, true, 0.95},
               {Type::q5_k, 32, 32, true, 1.03}, {Type::q6_k, 16, 64, false, 1.0}, {Type::iq4_nl, 32, 16, false, 0.85}};
  for (const auto& c : cases)
    EXPECT_LT(error(c.type, x, quantized(c.type, x)), c.most * error_of_range(x, c.n, c.levels, c.min))
        << type_info(c.type).name;
}

TEST(Quantizers, ImportantColumnsAreKeptBetter) {
  const std::vector<float> x = normal(4096, 2), importance = importances(4096, 3);
  for (const Type type : kQuantized) {
    const double without = error(type, x, quantized(type, x), importance.data());
    const double with = error(type, x, quantized(type, x, importance.data()), importance.data());
    if (type == Type::q8_0)
      EXPECT_EQ(with, without);
    else
      EXPECT_LT(with, 0.97 * without) << type_info(type).name;
  }
}

TEST(Quantizers, EveryInstructionSetFindsTheSame) {
  const std::vector<float> x = normal(256 * 37, 4), importance = importances(256 * 37, 5);
  for (const Type type : kQuantized)
    for (const float* weights : {static_cast<const float*>(nullptr), importance.data()}) {
      ASSERT_TRUE(select_isa("ref"));
      const auto expected = quantized(type, x, weights);
      for (const Kernels* row : kernel_rows()) {
        ASSERT_TRUE(select_isa(row->isa));
        EXPECT_EQ(quantized(type, x, weights), expected) << type_info(type).name << " " << row->isa;
      }
    }
  ASSERT_TRUE(select_isa("auto"));
}

TEST(Quantizers, ABlockIsTheSameWhereverItStands) {
  const std::vector<float> x = normal(256 * 21, 6);
  for (const Type type : kQuantized) {
    const auto whole = quantized(type, x);
    const std::size_t bytes = row_bytes(type, 256);
    for (std::size_t i = 0; i < 21; ++i) {
      const std::vector<float> part(x.begin() + 256 * static_cast<int>(i), x.begin() + 256 * static_cast<int>(i + 1));
      const auto alone = quantized(type, part);
      EXPECT_EQ(std::memcmp(alone.data(), whole.data() + i * bytes, bytes), 0) << type_info(type).name;
    }
  }
}

TEST(Quantizers, OddInputGivesFiniteBlocks) {
  std::vector<std::vector<float>> inputs(6, std::vector<float>(256));
  for (float& v : inputs[1]) v = 0.25f;
  for (float& v : inputs[2]) v = -1e-20f;
  inputs[3][7] = -3;
  for (std::size_t i = 0; i < 256; ++i) inputs[4][i] = i % 2 != 0 ? 1e-30f : -60000.0f;
  for (float& v : inputs[5]) v = -0.125f;
  const std::vector<float> nothing(256), all(256, 1.0f);
  for (const Type type : kQuantized)
    for (const auto& x : inputs)
      for (const float* importance : {static_cast<const float*>(nullptr), nothing.data(), all.data()}) {
        const auto row = quantized(type, x, importance);
        std::vector<float> back(256);
        dequantize_row(type, row.data(), back.data(), 256);
        const float most = std::abs(*std::ranges::max_element(x, {}, [](float v) { return std::abs(v); }));
        for (std::size_t i = 0; i < 256; ++i) {
          ASSERT_TRUE(std::isfinite(back[i])) << type_info(type).name;
          if (importance != nothing.data()) ASSERT_NEAR(back[i], x[i], 0.15f * most + 1e-6f) << type_info(type).name;
        }
      }
  std::vector<float> broken(256, std::nanf(""));
  broken[3] = HUGE_VALF;
  for (const Type type : kQuantized) quantized(type, broken, all.data());  // useless, no crash
}

TEST(Quantizers, TakenApartAndPutTogetherIsTheSame) {
  const std::vector<float> x = normal(256, 8);
  for (const Type type : kQuantized) {
    const auto row = quantized(type, x);
    std::vector<std::byte> again(row.size());
    const std::size_t bytes = static_cast<std::size_t>(type_info(type).bytes);
    for (std::size_t at = 0; at < row.size(); at += bytes) {
      Parts parts;
      take_apart(type, row.data() + at, parts);
      put_together(type, parts, again.data() + at);
    }
    EXPECT_EQ(again, row) << type_info(type).name;
  }
}

}  // namespace
}  // namespace ashlar::kernels
