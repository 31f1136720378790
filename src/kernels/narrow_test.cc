// Products of few rows with narrow bf16 matrices, against sums in double precision and every row of the table against
// ref.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

std::size_t size(int n) { return static_cast<std::size_t>(n); }

std::vector<float> normals(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(size(n));
  for (float& v : x) v = normal(random);
  return x;
}

std::uint16_t rounded_down(float x) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16); }
double value(std::uint16_t bf16) { return std::bit_cast<float>(static_cast<std::uint32_t>(bf16) << 16); }

struct Case {
  Case(int rows, int inputs, int outputs)
      : rows(rows), inputs(inputs), outputs(outputs), x(normals(rows * inputs, 1)), before(normals(rows * outputs, 2)) {
    for (const float w : normals(outputs * inputs, 3)) weights.push_back(rounded_down(w));
  }
  std::vector<float> result(decltype(Kernels::narrow_in) kernel, const std::vector<std::uint16_t>& packed, int first,
                            int count) const {
    std::vector<float> y(before.begin() + first * outputs, before.begin() + (first + count) * outputs);
    NarrowJob job{.weights = packed.data(), .inputs = inputs, .outputs = outputs, .rows = count, .scale = 0.75f};
    for (int r = 0; r < count; ++r) {
      job.x[r] = x.data() + (first + r) * inputs;
      job.y[r] = y.data() + r * outputs;
    }
    kernel(&job);
    return y;
  }
  double sum(int row, int output) const {
    double total = 0;
    for (int i = 0; i < inputs; ++i)
      total += value(weights[size(output * inputs + i)]) * double{x[size(row * inputs + i)]};
    return total;
  }

  int rows, inputs, outputs;
  std::vector<float> x, before;
  std::vector<std::uint16_t> weights;
};

void check(const Case& c, decltype(&Kernels::narrow_in) kernel, const std::vector<std::uint16_t>& packed, double scale,
           double of_before) {
  const Kernels& ref = *kernel_rows().front();
  const std::vector<float> expected = c.result(ref.*kernel, packed, 0, c.rows);
  for (int r = 0; r < c.rows; ++r)
    for (int o = 0; o < c.outputs; ++o) {
      const std::size_t at = size(r * c.outputs + o);
      ASSERT_NEAR(expected[at], scale * c.sum(r, o) + of_before * double{c.before[at]}, 2e-5 * std::sqrt(c.inputs));
    }
  for (const Kernels* row : kernel_rows()) {
    ASSERT_EQ(c.result(row->*kernel, packed, 0, c.rows), expected) << row->isa;
    for (int r = 0; r < c.rows; ++r) {
      const auto begin = expected.begin() + r * c.outputs;
      ASSERT_EQ(c.result(row->*kernel, packed, r, 1), std::vector<float>(begin, begin + c.outputs)) << row->isa;
    }
  }
}

TEST(Narrow, ManyInputsBecomeFewOutputs) {
  for (const int rows : {1, 2, 3, 7, 16})
    for (const int inputs : {1, 8, 15, 16, 17, 30, 100, 896})
      for (const int outputs : {1, 2, 4, 6, 16}) {
        const Case c(rows, inputs, outputs);
        std::vector<std::uint16_t> packed(size(outputs * narrow_inputs(inputs)));
        for (int o = 0; o < outputs; ++o)
          std::copy_n(c.weights.begin() + o * inputs, inputs, packed.begin() + o * narrow_inputs(inputs));
        ASSERT_NO_FATAL_FAILURE(check(c, &Kernels::narrow_in, packed, 0.75, 0));
      }
}

TEST(Narrow, FewInputsAreAddedToManyOutputs) {
  for (const int rows : {1, 2, 3, 7, 16})
    for (const int inputs : {2, 4, 16, 34})
      for (const int outputs : {1, 7, 16, 17, 40, 64, 100, 271}) {
        const Case c(rows, inputs, outputs);
        std::vector<std::uint16_t> packed(size((outputs + kLanes - 1) / kLanes * kLanes * inputs));
        for (int o = 0; o < outputs; ++o)
          for (int i = 0; i < inputs; ++i)
            packed[size(o / kLanes * kLanes * inputs + i / 2 * 2 * kLanes + o % kLanes * 2 + i % 2)] =
                c.weights[size(o * inputs + i)];
        ASSERT_NO_FATAL_FAILURE(check(c, &Kernels::narrow_out, packed, 1, 1));
      }
}

}  // namespace
}  // namespace ashlar::kernels
