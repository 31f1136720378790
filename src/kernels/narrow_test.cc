// Products of few rows with narrow matrices, against sums in double precision and every row of the table against
// ref.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/narrow.h"

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

// A matrix of int8 as it was packed, and as it should have been.
struct Case8 {
  Case8(int rows, int inputs, int outputs)
      : rows(rows),
        inputs(inputs),
        outputs(outputs),
        x(normals(rows * inputs, 1)),
        before(normals(rows * outputs, 2)),
        weights(normals(outputs * inputs, 3)) {}
  std::span<const float> weights_of(int output) const {
    return std::span(weights).subspan(size(output * inputs), size(inputs));
  }
  // `kernel` for rows [first, first + count) of x, whose codes are those of ref.
  std::vector<float> result(decltype(Kernels::narrow8_in) kernel, Narrow8Job job, int top, int first, int count) const {
    std::vector<float> y(before.begin() + first * outputs, before.begin() + (first + count) * outputs);
    std::vector<std::int16_t> codes(size(count * narrow8_inputs(inputs)));
    job.rows = count;
    for (int r = 0; r < count; ++r) {
      std::int16_t* row = codes.data() + r * narrow8_inputs(inputs);
      job.x_scale[r] = kernel_rows().front()->narrow_codes(x.data() + (first + r) * inputs, inputs, top, row);
      job.x[r] = row;
      job.y[r] = y.data() + r * outputs;
    }
    kernel(&job, 1);
    return y;
  }
  // Beside sums in double precision of what was packed: the root mean square of errors over that of such sums.
  void check(decltype(&Kernels::narrow8_in) kernel, const Narrow8Job& job, int top, float of_before) const {
    const std::vector<float> expected = result(kernel_rows().front()->*kernel, job, top, 0, rows);
    double errors = 0, squares = 0;
    for (int r = 0; r < rows; ++r)
      for (int o = 0; o < outputs; ++o) {
        double sum = 0;
        for (int i = 0; i < inputs; ++i) {
          const double product = double{weights[size(o * inputs + i)]} * double{x[size(r * inputs + i)]};
          sum += product;
          squares += product * product;
        }
        const auto at = size(r * outputs + o);
        const double error = double{expected[at]} - double{of_before * before[at]} - sum;
        errors += error * error;
      }
    ASSERT_LT(std::sqrt(errors / squares), rows * outputs < 40 ? 0.03 : 0.008) << inputs << " to " << outputs;
    for (const Kernels* row : kernel_rows()) {
      ASSERT_EQ(result(row->*kernel, job, top, 0, rows), expected) << row->isa;
      for (int r = 0; r < rows; ++r) {
        const auto begin = expected.begin() + r * outputs;
        ASSERT_EQ(result(row->*kernel, job, top, r, 1), std::vector<float>(begin, begin + outputs)) << row->isa;
      }
    }
  }

  int rows, inputs, outputs;
  std::vector<float> x, before, weights;
};

TEST(Narrow, Int8OfManyInputsBecomesFewOutputs) {
  for (const int rows : {1, 2, 3, 7, 16})
    for (const int inputs : {1, 63, 64, 65, 127, 128, 129, 200, 896, 2050})
      for (const int outputs : {1, 2, 4, 7, 16, 19}) {
        const Case8 c(rows, inputs, outputs);
        NarrowIn packed(NarrowForm::int8, inputs, outputs);
        std::vector<std::byte> memory(packed.bytes());
        packed.place(memory.data());
        for (int o = 0; o < outputs; ++o) packed.pack(o, c.weights_of(o));
        ASSERT_NO_FATAL_FAILURE(c.check(&Kernels::narrow8_in, packed.job8(0, outputs), kNarrow8InTop, 0));
      }
}

TEST(Narrow, Int8OfFewInputsIsAddedToManyOutputs) {
  for (const int rows : {1, 2, 3, 7, 16})
    for (const int inputs : {2, 4, 6, 16, 32, 70, 256})
      for (const int outputs : {1, 15, 16, 17, 40, 64, 100, 271}) {
        const Case8 c(rows, inputs, outputs);
        NarrowOut packed(NarrowForm::int8, inputs, outputs);
        std::vector<std::byte> memory(packed.bytes());
        packed.place(memory.data());
        for (int o = 0; o < outputs; ++o) packed.pack(o, c.weights_of(o));
        ASSERT_NO_FATAL_FAILURE(c.check(&Kernels::narrow8_out, packed.job8(0, outputs), kNarrow8OutTop, 1));
      }
}

TEST(Narrow, TheGreatestSumsOfInt8StayInTheirIntegers) {
  for (const Kernels* row : kernel_rows()) {
    NarrowOut packed(NarrowForm::int8, kMostNarrow8, kLanes);
    std::vector<std::byte> memory(packed.bytes());
    packed.place(memory.data());
    const std::vector<float> ones(size(kMostNarrow8), 1);
    for (int o = 0; o < kLanes; ++o) packed.pack(o, ones);
    std::vector<std::int16_t> codes(size(kMostNarrow8));
    std::vector<float> y(size(kLanes));
    Narrow8Job job = packed.job8(0, kLanes);
    job.rows = 1;
    job.x_scale[0] = row->narrow_codes(ones.data(), kMostNarrow8, kNarrow8OutTop, codes.data());
    job.x[0] = codes.data();
    job.y[0] = y.data();
    row->narrow8_out(&job, 1);
    for (const float found : y) ASSERT_NEAR(found, kMostNarrow8, 0.01 * kMostNarrow8) << row->isa;
  }
}

TEST(Narrow, CodesAreTheSameEverywhereWhateverTheyAreMadeOf) {
  const float infinity = std::numeric_limits<float>::infinity(), none = std::nanf("");
  for (const int n : {1, 15, 16, 17, 64, 100, 896})
    for (const float odd : {0.0f, 1e-38f, 3e38f, infinity, none}) {
      std::vector<float> x = normals(n, 7);
      x[size(n / 2)] = odd;
      std::vector<std::int16_t> expected(size(narrow8_inputs(n)), 99), found = expected;
      const float scale = kernel_rows().front()->narrow_codes(x.data(), n, kNarrow8InTop, expected.data());
      for (int i = n; i < narrow8_inputs(n); ++i) ASSERT_EQ(expected[size(i)], 0);
      for (int i = 0; i < n && odd == 0; ++i)
        ASSERT_NEAR(static_cast<float>(expected[size(i)]) * scale, x[size(i)], 0.51f * scale);
      for (const Kernels* row : kernel_rows()) {
        ASSERT_EQ(row->narrow_codes(x.data(), n, kNarrow8InTop, found.data()), scale) << row->isa;
        ASSERT_EQ(found, expected) << row->isa << " " << odd;
      }
    }
}

// Nine jobs, some of one shape, of 1 to 5 rows: each as it is alone.
void check_jobs(decltype(&Kernels::narrow8_in) kernel, auto pack, int inputs, int outputs, int top) {
  std::vector<std::vector<std::byte>> memory;
  std::vector<Narrow8Job> jobs;
  std::vector<std::vector<std::int16_t>> codes;
  std::vector<std::vector<float>> before;
  for (int j = 0; j < 9; ++j) {
    const int rows = j < 4 ? 1 + j % 2 : j < 8 ? j - 3 : 5;
    const Case8 c(rows, inputs, j == 8 ? outputs + 3 : outputs);
    Narrow8Job job = pack(c, memory.emplace_back());
    job.rows = rows;
    for (int r = 0; r < rows; ++r) {
      auto& row = codes.emplace_back(size(narrow8_inputs(inputs)));
      job.x_scale[r] = kernel_rows().front()->narrow_codes(c.x.data() + r * inputs, inputs, top, row.data());
      job.x[r] = row.data();
    }
    jobs.push_back(job);
    before.push_back(c.before);
  }
  for (const Kernels* row : kernel_rows()) {
    std::vector<std::vector<float>> alone = before, together = before;
    for (std::size_t j = 0; j < jobs.size(); ++j) {
      for (int r = 0; r < jobs[j].rows; ++r) jobs[j].y[r] = alone[j].data() + r * jobs[j].outputs;
      (row->*kernel)(&jobs[j], 1);
      for (int r = 0; r < jobs[j].rows; ++r) jobs[j].y[r] = together[j].data() + r * jobs[j].outputs;
    }
    (row->*kernel)(jobs.data(), static_cast<int>(jobs.size()));
    ASSERT_EQ(together, alone) << row->isa;
  }
}

TEST(Narrow, Int8JobsSideBySideAreAsEachAlone) {
  const auto packed = [](auto matrix, const Case8& c, std::vector<std::byte>& memory) {
    memory.resize(matrix.bytes());
    matrix.place(memory.data());
    for (int o = 0; o < c.outputs; ++o) matrix.pack(o, c.weights_of(o));
    return matrix.job8(0, c.outputs);
  };
  for (const int inputs : {64, 130, 300})
    ASSERT_NO_FATAL_FAILURE(check_jobs(
        &Kernels::narrow8_in,
        [&](const Case8& c, auto& memory) { return packed(NarrowIn(NarrowForm::int8, inputs, c.outputs), c, memory); },
        inputs, 16, kNarrow8InTop));
  for (const int inputs : {2, 16, 34})
    ASSERT_NO_FATAL_FAILURE(check_jobs(
        &Kernels::narrow8_out,
        [&](const Case8& c, auto& memory) { return packed(NarrowOut(NarrowForm::int8, inputs, c.outputs), c, memory); },
        inputs, 90, kNarrow8OutTop));
}

}  // namespace
}  // namespace ashlar::kernels
