// Products of few rows with narrow matrices, against sums in double precision and every row of the table against
// ref.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <deque>
#include <limits>
#include <random>
#include <utility>
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

// Rows of x as ref makes codes of them.
struct Codes {
  Codes(const float* x, int rows, int inputs)
      : rows(rows),
        inputs(inputs),
        codes(size(rows * narrow8_codes_of(inputs))),
        scales(size(rows * narrow8_blocks(inputs))) {
    for (int r = 0; r < rows; ++r)
      kernel_rows().front()->narrow8_codes(x + r * inputs, inputs, codes.data() + r * narrow8_codes_of(inputs),
                                           scales.data() + r * narrow8_blocks(inputs));
  }
  void set(Narrow8Job& job) const {
    job.rows = rows;
    job.x = codes.data();
    job.ldx = size(narrow8_codes_of(inputs));
    job.x_scales = scales.data();
    job.ld_scales = size(narrow8_blocks(inputs));
  }

  int rows, inputs;
  std::vector<std::int8_t> codes;
  std::vector<NarrowScale> scales;
};

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
  // `row` for rows [first, first + count) of x, whose codes are those of ref.
  std::vector<float> result(const Kernels& row, Narrow8Job job, int first, int count) const {
    std::vector<float> y(before.begin() + first * outputs, before.begin() + (first + count) * outputs);
    const Codes codes(x.data() + first * inputs, count, inputs);
    codes.set(job);
    for (int r = 0; r < count; ++r) job.y[r] = y.data() + r * outputs;
    row.narrow8(&job, 1);
    return y;
  }
  // Beside sums in double precision of what was packed: the root mean square of errors over that of such sums.
  void check(const Narrow8Job& job, double scale) const {
    const std::vector<float> expected = result(*kernel_rows().front(), job, 0, rows);
    double errors = 0, squares = 0;
    for (int r = 0; r < rows; ++r)
      for (int o = 0; o < outputs; ++o) {
        double sum = 0;
        for (int i = 0; i < inputs; ++i) {
          const double product = scale * double{weights[size(o * inputs + i)]} * double{x[size(r * inputs + i)]};
          sum += product;
          squares += product * product;
        }
        const auto at = size(r * outputs + o);
        const double error = double{expected[at]} - (job.add ? double{before[at]} : 0) - sum;
        errors += error * error;
      }
    ASSERT_LT(std::sqrt(errors / squares), rows * outputs < 40 ? 0.03 : 0.012) << inputs << " to " << outputs;
    for (const Kernels* row : kernel_rows()) {
      ASSERT_EQ(result(*row, job, 0, rows), expected) << row->isa;
      for (int r = 0; r < rows; ++r) {
        const auto begin = expected.begin() + r * outputs;
        ASSERT_EQ(result(*row, job, r, 1), std::vector<float>(begin, begin + outputs)) << row->isa;
      }
    }
  }

  int rows, inputs, outputs;
  std::vector<float> x, before, weights;
};

// In memory that ends where it ends.
template <class Matrix>
Matrix packed(const Case8& c, std::vector<std::byte>& memory) {
  Matrix matrix(NarrowForm::int8, c.inputs, c.outputs);
  memory.resize(matrix.bytes());
  matrix.place(memory.data());
  for (int o = 0; o < c.outputs; ++o) matrix.pack(o, c.weights_of(o));
  return matrix;
}

TEST(Narrow, Int8OfManyInputsBecomesFewOutputs) {
  for (const int rows : {1, 2, 3, 7, 16})
    for (const int inputs : {1, 63, 64, 65, 127, 128, 129, 200, 896, 2050})
      for (const int outputs : {1, 2, 4, 7, 16, 19}) {
        const Case8 c(rows, inputs, outputs);
        std::vector<std::byte> memory;
        ASSERT_NO_FATAL_FAILURE(c.check(packed<NarrowIn>(c, memory).job8(0, outputs, 0.7f), 0.7));
      }
}

TEST(Narrow, Int8OfFewInputsIsAddedToManyOutputs) {
  for (const int rows : {1, 2, 3, 7, 16})
    for (const int inputs : {2, 4, 6, 16, 32, 70, 256})
      for (const int outputs : {1, 15, 16, 17, 40, 64, 100, 271}) {
        const Case8 c(rows, inputs, outputs);
        std::vector<std::byte> memory;
        ASSERT_NO_FATAL_FAILURE(c.check(packed<NarrowOut>(c, memory).job8(0, outputs), 1));
      }
}

// Of a matrix, a part of its outputs: what they are of the whole.
TEST(Narrow, Int8JobsMayBeginAndEndWithAnyTile) {
  const Case8 c(7, 300, 70);
  std::vector<std::byte> memory;
  const NarrowIn matrix = packed<NarrowIn>(c, memory);
  for (const Kernels* row : kernel_rows()) {
    const std::vector<float> whole = c.result(*row, matrix.job8(0, 70, 1), 0, 7);
    std::vector<float> pieces(whole.size());
    const Codes codes(c.x.data(), 7, 300);
    for (const auto& [first, count] : {std::pair{0, 16}, {16, 48}, {64, 6}}) {
      Narrow8Job job = matrix.job8(first, count, 1);
      codes.set(job);
      for (int r = 0; r < 7; ++r) job.y[r] = pieces.data() + r * 70 + first;
      row->narrow8(&job, 1);
    }
    ASSERT_EQ(pieces, whole) << row->isa;
  }
}

TEST(Narrow, Int8CodesAreTheSameEverywhereWhateverTheyAreMadeOf) {
  const float infinity = std::numeric_limits<float>::infinity(), none = std::nanf("");
  for (const int n : {1, 15, 16, 17, 64, 100, 129, 896})
    for (const float odd : {0.0f, 1e-38f, 3e38f, infinity, none}) {
      std::vector<float> x = normals(n, 7);
      x[size(n / 2)] = odd;
      const Codes expected(x.data(), 1, n);
      for (int i = n; i < narrow8_codes_of(n); ++i) ASSERT_EQ(expected.codes[size(i)], 0);
      for (int i = 0; i < n && odd == 0; ++i) {
        const float scale = expected.scales[size(i / kNarrow8Block)].scale;
        ASSERT_NEAR(static_cast<float>(expected.codes[size(i)]) * scale, x[size(i)], 0.51f * scale);
      }
      for (const Kernels* row : kernel_rows()) {
        std::vector<std::int8_t> codes(expected.codes.size(), 99);
        std::vector<NarrowScale> scales(expected.scales.size());
        row->narrow8_codes(x.data(), n, codes.data(), scales.data());
        ASSERT_EQ(codes, expected.codes) << row->isa << " " << odd;
        for (std::size_t b = 0; b < scales.size(); ++b) {
          ASSERT_EQ(scales[b].scale, expected.scales[b].scale) << row->isa;
          ASSERT_EQ(scales[b].bias, expected.scales[b].bias) << row->isa;
        }
      }
    }
}

// Nine jobs, some of one shape, of 1 to 5 rows: each as it is alone.
template <class Matrix>
void check_jobs(int inputs, int outputs, auto job_of) {
  std::vector<std::vector<std::byte>> memory(9);
  std::vector<Narrow8Job> jobs;
  std::deque<Codes> codes;
  std::vector<std::vector<float>> before;
  for (int j = 0; j < 9; ++j) {
    const int rows = j < 4 ? 1 + j % 2 : j < 8 ? j - 3 : 5;
    const Case8 c(rows, inputs, j == 8 ? outputs + 3 : outputs);
    jobs.push_back(job_of(packed<Matrix>(c, memory[size(j)])));
    codes.emplace_back(c.x.data(), rows, inputs).set(jobs.back());
    before.push_back(c.before);
  }
  for (const Kernels* row : kernel_rows()) {
    std::vector<std::vector<float>> alone = before, together = before;
    for (std::size_t j = 0; j < jobs.size(); ++j) {
      for (int r = 0; r < jobs[j].rows; ++r) jobs[j].y[r] = alone[j].data() + r * jobs[j].outputs;
      row->narrow8(&jobs[j], 1);
      for (int r = 0; r < jobs[j].rows; ++r) jobs[j].y[r] = together[j].data() + r * jobs[j].outputs;
    }
    row->narrow8(jobs.data(), static_cast<int>(jobs.size()));
    ASSERT_EQ(together, alone) << row->isa;
  }
}

TEST(Narrow, Int8JobsSideBySideAreAsEachAlone) {
  for (const int inputs : {64, 130, 300})
    ASSERT_NO_FATAL_FAILURE(
        check_jobs<NarrowIn>(inputs, 16, [](const NarrowIn& matrix) { return matrix.job8(0, matrix.outputs(), 1); }));
  for (const int inputs : {2, 16, 34})
    ASSERT_NO_FATAL_FAILURE(
        check_jobs<NarrowOut>(inputs, 90, [](const NarrowOut& matrix) { return matrix.job8(0, matrix.outputs()); }));
}

}  // namespace
}  // namespace ashlar::kernels
