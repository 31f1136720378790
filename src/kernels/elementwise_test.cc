#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/ref/ref.h"

namespace ashlar::kernels {
namespace {

std::vector<float> normals(int n, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = normal(random);
  return x;
}

class ElementwiseTest : public testing::Test {
 protected:
  ~ElementwiseTest() override { EXPECT_TRUE(select_isa("auto")); }
  ThreadPool pool{2};
};

TEST_F(ElementwiseTest, ExponentialIsCloseEverywhere) {
  for (float x = -86.9f; x < 87.9f; x += 0.0137f) {
    const double expected = std::exp(double{x});
    ASSERT_NEAR(ref::exponential(x) / expected, 1, 2e-7) << x;
  }
  EXPECT_EQ(ref::exponential(0), 1.0f);
  EXPECT_EQ(ref::exponential(-INFINITY), 0.0f);
  EXPECT_EQ(ref::exponential(-200), 0.0f);
  EXPECT_TRUE(std::isfinite(ref::exponential(1000)));
}

TEST_F(ElementwiseTest, RmsNormAndResidual) {
  const int n = 100, rows = 3;
  std::vector<float> x = normals(rows * n, 1), delta = normals(rows * n, 2), weight = normals(n, 3), y(300);
  const std::vector<float> before = x;
  add_rms_norm(x.data(), n, delta.data(), n, weight.data(), 1e-5f, rows, n, y.data(), n, pool);
  for (int r = 0; r < rows; ++r) {
    double squares = 0;
    for (int i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(r * n + i);
      ASSERT_EQ(x[at], before[at] + delta[at]);
      squares += double{x[at]} * double{x[at]};
    }
    for (int i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(r * n + i);
      ASSERT_NEAR(y[at], x[at] / std::sqrt(squares / n + 1e-5) * weight[static_cast<std::size_t>(i)], 1e-6);
    }
  }
}

TEST_F(ElementwiseTest, LayerNormTakesTheMeanAway) {
  const int n = 100, rows = 3;
  const std::vector<float> weight = normals(n, 3), bias = normals(n, 4);
  std::vector<float> x = normals(rows * n, 1, 3), y(300);
  for (float& v : x) v += 5;
  layer_norm(x.data(), n, weight.data(), bias.data(), 1e-5f, rows, n, y.data(), n, pool);
  for (int r = 0; r < rows; ++r) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; ++i) sum += x[static_cast<std::size_t>(r * n + i)];
    for (int i = 0; i < n; ++i) squares += std::pow(x[static_cast<std::size_t>(r * n + i)] - sum / n, 2);
    for (int i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(r * n + i), column = static_cast<std::size_t>(i);
      ASSERT_NEAR(y[at], (x[at] - sum / n) / std::sqrt(squares / n + 1e-5) * weight[column] + bias[column], 2e-6);
    }
  }
}

TEST_F(ElementwiseTest, GeluFollowsTheErrorFunction) {
  std::vector<float> x;
  for (float v = -12; v < 12; v += 0.0137f) x.push_back(v);
  for (const float v : {-1000.0f, -0.0f, 0.0f, 1000.0f}) x.push_back(v);
  std::vector<float> y(x.size());
  gelu(x.data(), x.size(), 1, static_cast<int>(x.size()), y.data(), x.size(), pool);
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(y[i], 0.5 * x[i] * std::erfc(-x[i] / std::numbers::sqrt2), 1e-6 * std::max(1.0f, std::abs(x[i])))
        << x[i];
}

TEST_F(ElementwiseTest, RopeTurnsPairs) {
  for (const RopeLayout layout : {RopeLayout::adjacent, RopeLayout::halves}) {
    const std::vector<float> factors = {1, 2, 4, 8};
    Rope rope(8, 10000, layout, factors);
    const int positions[] = {0, 3, 1000};
    rope.set_positions(positions);
    std::vector<float> x = normals(3 * 20, 1);  // two heads of 10, the last two elements of each not rotated
    const std::vector<float> before = x;
    rope.rotate(x.data(), 20, 2, 10, pool);
    for (int r = 0; r < 3; ++r)
      for (int h = 0; h < 2; ++h) {
        const auto base = static_cast<std::size_t>(r * 20 + h * 10);
        for (std::size_t i = 0; i < 4; ++i) {
          const double angle = positions[r] * std::pow(10000.0, -2.0 * static_cast<double>(i) / 8) / factors[i];
          const std::size_t a = base + (layout == RopeLayout::halves ? i : 2 * i);
          const std::size_t b = layout == RopeLayout::halves ? a + 4 : a + 1;
          ASSERT_NEAR(x[a], before[a] * std::cos(angle) - before[b] * std::sin(angle), 1e-6);
          ASSERT_NEAR(x[b], before[a] * std::sin(angle) + before[b] * std::cos(angle), 1e-6);
        }
        ASSERT_EQ(x[base + 8], before[base + 8]);
        ASSERT_EQ(x[base + 9], before[base + 9]);
      }
  }
}

TEST_F(ElementwiseTest, SiluGeluAndSoftmax) {
  const std::vector<float> gate = {-100, -1, 0, 0.5f, 3, 100}, up = {1, 2, 3, 4, 5, 6};
  std::vector<float> y(6);
  silu_mul(gate.data(), up.data(), 6, 1, 6, y.data(), 6, pool);
  for (std::size_t i = 0; i < 6; ++i) ASSERT_NEAR(y[i], gate[i] / (1 + std::exp(-gate[i])) * up[i], 1e-5);
  gelu_mul(gate.data(), up.data(), 6, 1, 6, y.data(), 6, pool);
  for (std::size_t i = 0; i < 6; ++i) {
    const double g = gate[i], inner = std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g);
    ASSERT_NEAR(y[i], 0.5 * g * (1 + std::tanh(inner)) * up[i], 1e-5);
  }
  std::vector<float> x = {1, 2, 3, -1000};
  EXPECT_NEAR(log_sum_exp(x), 3 + std::log(1 + std::exp(-1) + std::exp(-2)), 1e-6);
  softmax(x);
  EXPECT_NEAR(x[2], 1 / (1 + std::exp(-1) + std::exp(-2)), 1e-6);
  EXPECT_EQ(x[3], 0.0f);
}

TEST_F(ElementwiseTest, EveryRowOfTheTableGivesTheBitsOfRef) {
  for (const int n : {1, 8, 15, 16, 17, 31, 64, 100, 896, 4096}) {
    const std::vector<float> a = normals(n, 1, 20), b = normals(n, 2), cosine = normals(n, 3), sine = normals(n, 4);
    const auto all = [&](const Kernels& row) {
      std::vector<float> results;
      const auto keep = [&](const std::vector<float>& y) { results.insert(results.end(), y.begin(), y.end()); };
      std::vector<float> y(a.size());
      row.rms_norm(a.data(), b.data(), 1e-6f, n, y.data());
      keep(y);
      row.layer_norm(a.data(), b.data(), cosine.data(), 1e-6f, n, y.data());
      keep(y);
      row.gelu(cosine.data(), n, y.data());
      keep(y);
      y = a;
      row.add(b.data(), n, y.data());
      keep(y);
      y = a;
      const std::vector<float> rows = normals(5 * (n + 3), 5);
      for (const int count : {0, 1, 5})
        row.add_rows(rows.data(), static_cast<std::size_t>(n + 3), b.data(), std::min(count, n), n, y.data());
      keep(y);
      for (const int halves : {0, 1}) {
        y = a;
        row.rope(cosine.data(), sine.data(), n / 2 * 2, halves, y.data());
        keep(y);
      }
      row.silu_mul(a.data(), b.data(), n, y.data());
      keep(y);
      row.gelu_mul(a.data(), b.data(), n, y.data());
      keep(y);
      float most, sum;
      row.exp_sum(a.data(), n, &most, &sum);
      keep({most, sum});
      row.exp_scale(a.data(), n, most, 0.3f, y.data());
      keep(y);
      return results;
    };
    const std::vector<float> expected = all(*kernel_rows().front());
    for (const Kernels* row : kernel_rows()) ASSERT_EQ(all(*row), expected) << row->isa << " " << n;
  }
}

}  // namespace
}  // namespace ashlar::kernels
