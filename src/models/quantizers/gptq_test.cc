// GPTQ, coordinate descent and the algebra under them, against plain loops in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/blocks.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/descent.h"
#include "models/quantizers/gptq.h"
#include "models/quantizers/output_error_test.h"

namespace ashlar::models {
namespace {

using kernels::Type;

std::vector<float> normal(std::size_t n, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, deviation);
  std::vector<float> x(n);
  for (float& v : x) v = draw(random);
  return x;
}

// Rows whose columns lean on each other, some much larger than others.
std::vector<float> activations(std::size_t rows, std::size_t n) {
  const std::vector<float> hidden = normal(rows * 24, 1), mixing = normal(24 * n, 2), noise = normal(rows * n, 3, 0.3f);
  std::vector<float> x(rows * n);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < n; ++c) {
      float sum = noise[r * n + c];
      for (std::size_t k = 0; k < 24; ++k) sum += 0.3f * hidden[r * 24 + k] * mixing[k * n + c];
      x[r * n + c] = sum * (c % 37 == 5 ? 8.0f : 1.0f);
    }
  return x;
}

TEST(Dense, CholeskyGivesTheMatrixBack) {
  ThreadPool pool(2);
  for (const int n : {1, 5, 256, 300, 601}) {
    const auto size = static_cast<std::size_t>(n);
    const std::vector<float> b = normal(size * size, 4);
    std::vector<float> a(size * size);
    for (std::size_t i = 0; i < size; ++i)
      for (std::size_t j = 0; j < size; ++j) {
        double sum = i == j ? n : 0;
        for (std::size_t k = 0; k < size; ++k) sum += double{b[i * size + k]} * double{b[j * size + k]};
        a[i * size + j] = static_cast<float>(sum / n);
      }
    std::vector<float> r = a;
    ASSERT_TRUE(cholesky(r, n, pool));
    for (std::size_t i = 0; i < size; i += 7)
      for (std::size_t j = i; j < size; j += 3) {
        double sum = 0;
        for (std::size_t k = 0; k <= i; ++k) sum += double{r[k * size + i]} * double{r[k * size + j]};
        ASSERT_NEAR(sum, a[i * size + j], 2e-5) << n << " " << i << " " << j;
      }
  }
  std::vector<float> bad{1, 2, 2, 1};
  EXPECT_FALSE(cholesky(bad, 2, pool));
}

TEST(Dense, GramIsTheMeanOfProducts) {
  ThreadPool pool(2);
  constexpr std::size_t kColumns = 70, kRows = 1300;
  const std::vector<float> x = normal(kRows * kColumns, 5);
  ProductSum gram(kColumns);
  for (std::size_t r = 0; r < kRows; r += 325) ASSERT_TRUE(gram.add(x.data() + r * kColumns, kColumns, 325, pool));
  const auto mean = gram.mean(pool);
  ASSERT_TRUE(mean);
  const auto expected = mean_products(x, kColumns);
  for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR((*mean)[i], expected[i], 5e-4);
}

TEST(Gptq, LosesLessThanRoundingToNearest) {
  ThreadPool pool(2);
  constexpr std::size_t kColumns = 512, kRows = 24;
  const auto h = mean_products(activations(700, kColumns), kColumns);
  const std::vector<float> w = normal(kRows * kColumns, 6, 0.05f), single(h.begin(), h.end());
  for (const Type type : {Type::q4_0, Type::q4_1, Type::q5_0, Type::q2_k, Type::q3_k, Type::q4_k, Type::q5_k,
                          Type::q6_k, Type::iq4_nl, Type::iq4_xs}) {
    std::vector<std::byte> nearest(kernels::row_bytes(type, kColumns * kRows));
    kernels::quantize_row(type, w.data(), nearest.data(), kColumns * kRows);
    const double before = cost(w, type, nearest, h, kColumns);
    for (const bool order : {false, true}) {
      const auto curvature = Curvature::create(single, kColumns, {.activation_order = order}, pool);
      ASSERT_TRUE(curvature);
      const auto made = gptq(w, {}, type, *curvature, pool);
      ASSERT_TRUE(made);
      EXPECT_LT(cost(w, type, *made, h, kColumns), 0.6 * before) << kernels::type_info(type).name << order;
    }
  }
}

// What is asked for is the output of inputs that are no longer there.
TEST(Gptq, AimsAtTheOutputOfTheInputsAsTheyWere) {
  ThreadPool pool(2);
  constexpr std::size_t n = 320, kRows = 6, kTokens = 900;
  const std::vector<float> was = activations(kTokens, n), noise = normal(kTokens * n, 21, 0.1f);
  std::vector<float> is = was;
  for (std::size_t i = 0; i < is.size(); ++i) is[i] = 0.9f * was[i] + noise[i] * was[i / n * n + (i + 7) % n];
  const std::vector<float> w = normal(kRows * n, 22, 0.05f);
  const auto h = mean_products(is, n);
  std::vector<float> b(w.size());
  for (std::size_t r = 0; r < kRows; ++r)
    for (std::size_t t = 0; t < kTokens; ++t) {
      double off = 0;
      for (std::size_t i = 0; i < n; ++i)
        off += double{w[r * n + i]} * (double{was[t * n + i]} - double{is[t * n + i]});
      for (std::size_t i = 0; i < n; ++i) b[r * n + i] += static_cast<float>(off * double{is[t * n + i]} / kTokens);
    }
  const auto error = [&](std::span<const float> aim, bool order) {
    const auto curvature =
        Curvature::create(std::vector<float>(h.begin(), h.end()), n, {.activation_order = order}, pool);
    const auto made = gptq(w, aim, Type::q4_0, *curvature, pool);
    std::vector<float> back(w.size());
    kernels::dequantize_row(Type::q4_0, made->data(), back.data(), static_cast<std::int64_t>(w.size()));
    double sum = 0;
    for (std::size_t t = 0; t < kTokens; ++t)
      for (std::size_t r = 0; r < kRows; ++r) {
        double y = 0;
        for (std::size_t i = 0; i < n; ++i)
          y += double{w[r * n + i]} * double{was[t * n + i]} - double{back[r * n + i]} * double{is[t * n + i]};
        sum += y * y;
      }
    return sum;
  };
  for (const bool order : {false, true}) EXPECT_LT(error(b, order), 0.8 * error({}, order)) << order;
}

TEST(Descent, NeverRaisesTheCost) {
  ThreadPool pool(2);
  constexpr std::size_t n = 512, kRows = 10;
  const auto h = mean_products(activations(700, n), n);
  const std::vector<float> w = normal(kRows * n, 8, 0.05f), b = normal(kRows * n, 9, 0.002f);
  const Pieces pieces = [&](int row, int rows, int column, int columns, float* to) {
    for (int r = row; r < row + rows; ++r)
      for (int c = column; c < column + columns; ++c)
        *to++ = static_cast<float>(h[static_cast<std::size_t>(r) * n + static_cast<std::size_t>(c)]);
  };
  for (const Type type : {Type::q4_0, Type::q4_1, Type::q5_0, Type::q5_1, Type::q8_0, Type::q2_k, Type::q3_k,
                          Type::q4_k, Type::q5_k, Type::q6_k, Type::iq4_nl, Type::iq4_xs}) {
    const auto whole = [&](const std::vector<std::byte>& bytes) {
      std::vector<float> back(w.size());
      kernels::dequantize_row(type, bytes.data(), back.data(), static_cast<std::int64_t>(w.size()));
      double sum = cost(w, type, bytes, h, n);
      for (std::size_t i = 0; i < w.size(); ++i) sum -= 2 * double{b[i]} * (double{back[i]} - double{w[i]});
      return sum;
    };
    std::vector<std::byte> bytes(kernels::row_bytes(type, kRows * n));
    kernels::quantize_row(type, w.data(), bytes.data(), kRows * n);
    Descent descent(type, pieces, n, pool);
    for (int round = 0; round < 3; ++round) {
      const double before = whole(bytes);
      ASSERT_TRUE(descent.run(w, b, bytes, 1));
      const double after = whole(bytes);
      EXPECT_LT(after, before + 1e-6 * std::abs(before)) << kernels::type_info(type).name << " " << round;
      if (round == 0) {
        EXPECT_LT(after, 0.9 * before) << kernels::type_info(type).name;
      }
    }
  }
}

// The paper's algorithm as it is written, with an inverse, in double precision, on Q8_0's scales.
TEST(Gptq, FollowsThePaper) {
  ThreadPool pool(1);
  constexpr std::size_t n = 64;
  const auto h = mean_products(activations(300, n), n);
  const std::vector<float> w = normal(n, 7, 0.05f), single(h.begin(), h.end());
  // A coarse, fixed grid is had by giving act-order no order to change: all scales are chosen beforehand then.
  std::vector<float> flat = single;
  const auto curvature = Curvature::create(flat, n, {.activation_order = true, .rounds = 0}, pool);
  const auto made = gptq(w, {}, Type::q4_0, *curvature, pool);
  ASSERT_TRUE(made);
  std::vector<float> result(n);
  kernels::dequantize_row(Type::q4_0, made->data(), result.data(), n);
  std::vector<double> importance(n), rest(w.begin(), w.end()), inverse(n * n), a = h;
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += h[i * n + i] / n;
  for (std::size_t i = 0; i < n; ++i) a[i * n + i] += 0.01 * mean;
  std::vector<bool> done(n);
  for (std::size_t step = 0; step < n; ++step) {
    std::size_t next = n;  // the column of the largest mean square; of equal ones the first in reverse order
    for (std::size_t i = 0; i < n; ++i)
      if (!done[i] && (next == n || single[i * n + i] >= single[next * n + next])) next = i;
    // Row `next` of the inverse over what is left, by elimination: solve A y = unit.
    std::vector<std::size_t> left;
    for (std::size_t i = 0; i < n; ++i)
      if (!done[i]) left.push_back(i);
    std::vector<std::vector<double>> m(left.size(), std::vector<double>(left.size() + 1));
    for (std::size_t i = 0; i < left.size(); ++i) {
      for (std::size_t j = 0; j < left.size(); ++j) m[i][j] = a[left[i] * n + left[j]];
      m[i].back() = left[i] == next ? 1 : 0;
    }
    for (std::size_t i = 0; i < left.size(); ++i)
      for (std::size_t r = 0; r < left.size(); ++r) {
        if (r == i) continue;
        const double factor = m[r][i] / m[i][i];
        for (std::size_t c = i; c <= left.size(); ++c) m[r][c] -= factor * m[i][c];
      }
    std::size_t at = 0;
    while (left[at] != next) ++at;
    const double error = (rest[next] - result[next]) / (m[at].back() / m[at][at]);
    // What it rounded to is the nearest that its block's scale allows.
    std::uint16_t d;
    std::memcpy(&d, made->data() + next / 32 * 18, 2);
    const double scale = kernels::f16_to_f32(d), low = std::min(-8 * scale, 7 * scale),
                 high = low + 15 * std::abs(scale);
    EXPECT_LE(std::abs(std::clamp(rest[next], low, high) - result[next]), 0.502 * std::abs(scale) + 1e-5) << step;
    for (std::size_t i = 0; i < left.size(); ++i) rest[left[i]] -= error * m[i].back() / m[i][i];
    done[next] = true;
  }
}

}  // namespace
}  // namespace ashlar::models
