#include "kernels/matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr Type kAll[] = {Type::f32,     Type::f16,     Type::bf16,   Type::q8_0, Type::q4_0, Type::q4_1,
                         Type::q5_0,    Type::q5_1,    Type::q2_k,   Type::q3_k, Type::q4_k, Type::q5_k,
                         Type::q6_k,    Type::iq4_nl,  Type::iq4_xs, Type::u4z,  Type::u8z,  Type::i8,
                         Type::f8_e4m3, Type::f8_e5m2, Type::nf4,    Type::mxfp4};

struct Matrix {
  Type type;
  int rows, columns;
  std::vector<std::byte> data;
  RawMatrix raw() const { return {type, rows, columns, data.data()}; }
};

std::vector<float> normals(std::size_t n, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

Matrix random_matrix(Type type, int rows, int columns, unsigned seed) {
  Matrix m{type, rows, columns, {}};
  const std::vector<float> w = normals(static_cast<std::size_t>(rows * columns), seed, 0.02f);
  const std::size_t row = row_bytes(type, columns);
  m.data.resize(row * static_cast<std::size_t>(rows));
  for (int r = 0; r < rows; ++r)
    quantize_row(type, w.data() + static_cast<std::ptrdiff_t>(r) * columns,
                 m.data.data() + row * static_cast<std::size_t>(r), columns);
  return m;
}

// Random bytes are a valid block of every quantized type: codes, scales and mins at all their ends.
// The f16 factors are made finite and moderate.
Matrix noise_matrix(Type type, int rows, int columns, unsigned seed) {
  Matrix m = random_matrix(type, rows, columns, seed);
  const TypeInfo& info = type_info(type);
  if (info.block == 1) return m;
  std::mt19937 random(seed);
  for (std::size_t at = 0; at < m.data.size(); at += static_cast<std::size_t>(info.bytes)) {
    for (int i = 0; i < info.bytes; ++i) {
      const unsigned kind = random() % 4;
      m.data[at + static_cast<std::size_t>(i)] = static_cast<std::byte>(kind == 0   ? 0xff
                                                                        : kind == 1 ? 0x00
                                                                        : kind == 2 ? 0x80
                                                                                    : random() % 256);
    }
    const auto set_half = [&](int where, std::uint16_t half) {
      m.data[at + static_cast<std::size_t>(where)] = static_cast<std::byte>(half);
      m.data[at + static_cast<std::size_t>(where) + 1] = static_cast<std::byte>(half >> 8);
    };
    const auto at_of = [&](int where) { return m.data.data() + at + where; };
    if (kLayouts[format_of(type)].wide) {
      const float scale = static_cast<float>(static_cast<int>(random() % 17) - 8) / 67;
      std::memcpy(at_of(0), &scale, 4);
      if (type == Type::f8_e4m3 || type == Type::f8_e5m2)  // finite codes
        for (int i = 4; i < info.bytes; ++i) *at_of(i) &= std::byte{0xbb};
      continue;
    }
    const auto half = [&] { return f32_to_f16(static_cast<float>(static_cast<int>(random() % 17) - 8) / 64); };
    const int d = type == Type::q2_k ? 80 : type == Type::q3_k ? 108 : type == Type::q6_k ? 208 : 0;
    if (type == Type::mxfp4)
      *at_of(0) = static_cast<std::byte>(118 + random() % 6);
    else
      set_half(d, half());
    if (kLayouts[format_of(type)].min) set_half(d + 2, half());
    if (kLayouts[format_of(type)].zero)
      set_half(2, static_cast<std::uint16_t>(random() % (type == Type::u4z ? 17 : 256)));
  }
  return m;
}

PackedMatrix packed(const std::vector<RawMatrix>& raw, ThreadPool& pool) {
  auto result = pack(raw, pool);
  EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().message);
  return std::move(*result);
}

std::vector<float> product(const PackedMatrix& w, const std::vector<float>& x, int rows, ThreadPool& pool) {
  Activations a;
  a.assign(x.data(), static_cast<std::size_t>(w.columns()), rows, w.columns(), w.forms(), pool);
  std::vector<float> y(static_cast<std::size_t>(rows * w.rows()) + 3, 12345.0f);
  matmul(w, a, y.data(), static_cast<std::size_t>(w.rows()), pool);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(y[y.size() - 1 - static_cast<std::size_t>(i)], 12345.0f) << "written beyond the end";
  y.resize(y.size() - 3);
  return y;
}

class MatrixTest : public testing::Test {
 protected:
  ~MatrixTest() override { EXPECT_TRUE(select_isa("auto")); }
  static void choose(const Kernels& row) { ASSERT_TRUE(select_isa(row.isa)); }
  // The rows of the table that give the bits of ref; those with tiles have their own.
  static std::vector<const Kernels*> exact_rows() {
    std::vector<const Kernels*> rows;
    for (const Kernels* row : kernel_rows())
      if (row->int8_panel == nullptr) rows.push_back(row);
    return rows;
  }
  ThreadPool pool{2};
};

float rounded_to_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

// What products may take a weight for that is not its value: 8-bit floats as int8 in 127ths of the greatest of 64, NF4
// in 112ths.
double rounding(Type type, std::span<const float> block) {
  float most = 0;
  for (const float w : block) most = std::max(most, std::abs(w));
  if (type == Type::f8_e4m3 || type == Type::f8_e5m2) return most * 1.001 / 254;
  return type == Type::nf4 ? most * 0.0039 : 0;
}

// Against sums in double precision over the dequantized weights and the activations as quantized.
TEST_F(MatrixTest, RefIsTheSumOfProducts) {
  choose(*kernel_rows().front());
  for (const Type type : kAll) {
    const int rows = 21, columns = 512, count = 3;
    const Matrix m = noise_matrix(type, rows, columns, 3);
    std::vector<float> x = normals(static_cast<std::size_t>(count * columns), 5);
    std::fill(x.begin() + 64, x.begin() + 128, 0.0f);
    const std::vector<float> y = product(packed({m.raw()}, pool), x, count, pool);
    std::vector<float> w(static_cast<std::size_t>(columns));
    for (int o = 0; o < rows; ++o) {
      dequantize_row(type, m.data.data() + row_bytes(type, columns) * static_cast<std::size_t>(o), w.data(), columns);
      for (int r = 0; r < count; ++r) {
        double sum = 0, size = 0, rounded = 0;
        for (int b = 0; b < columns; b += 32) {
          const float* v = x.data() + r * columns + b;
          float most = 0;
          for (int k = 0; k < 32; ++k) most = std::max(most, std::abs(v[k]));
          for (int k = 0; k < 32; ++k) {
            double xk = v[k];
            if (type_info(type).block > 1)
              xk = most == 0 ? 0 : std::nearbyint(v[k] * (127.0f / most)) * double{most / 127.0f};
            sum += xk * double{w[static_cast<std::size_t>(b + k)]};
            size += std::abs(xk * double{w[static_cast<std::size_t>(b + k)]});
            rounded += std::abs(xk) * rounding(type, std::span(w).subspan(static_cast<std::size_t>(b / 64 * 64), 64));
          }
        }
        ASSERT_NEAR(y[static_cast<std::size_t>(r * rows + o)], sum, rounded + 1e-5 * size + 1e-9)
            << type_info(type).name << " " << o;
      }
    }
  }
}

// What a product on tiles may be off by, given how it rounds.
struct Expected {
  double sum = 0;       // over the dequantized weights and the activations as rounded
  double bound = 0;     // no product is further off
  double variance = 0;  // of its error
};

// int8 under one scale for a group of columns of activations; weights to a step of 1/126 of the greatest of the group
// at most, off by up to half of one and half a code's share of the scale's rounding. 16-bit types: both as bf16.
Expected expected_on_tiles(Type type, std::span<const float> w, std::span<const float> x) {
  Expected e;
  const bool integers = type_info(type).block > 1;
  const auto group = static_cast<std::size_t>(kInt8GroupColumns);
  for (std::size_t first = 0; first < w.size(); first += group) {
    const std::size_t end = std::min(w.size(), first + group);
    float most_x = 0, most_w = 0;
    for (std::size_t k = first; k < end; ++k) {
      most_x = std::max(most_x, std::abs(x[k]));
      most_w = std::max(most_w, std::abs(w[k]));
    }
    for (std::size_t k = first; k < end; ++k) {
      const double rounded = rounded_to_bf16(x[k]), scale = double{most_x} / 127;
      const double v = integers ? (most_x == 0 ? 0 : std::nearbyint(x[k] * (127 / most_x)) * scale) : rounded;
      // Codes at their ends may be absent: the step follows what they could be, at most twice the greatest here.
      const double step = integers ? double{most_w} * 2 / 126 : std::abs(double{w[k]}) / 256;
      e.sum += v * double{w[k]};
      e.bound += std::abs(v) * 1.1 * step;
      e.variance += v * v * step * step / (integers ? 8 : 3);
    }
  }
  return e;
}

void expect_tiles(const Matrix& m, const std::vector<float>& x, int count, ThreadPool& pool) {
  const std::vector<float> y = product(packed({m.raw()}, pool), x, count, pool);
  std::vector<float> w(static_cast<std::size_t>(m.columns));
  double errors = 0, variances = 0;
  for (int o = 0; o < m.rows; ++o) {
    dequantize_row(m.type, m.data.data() + row_bytes(m.type, m.columns) * static_cast<std::size_t>(o), w.data(),
                   m.columns);
    for (int r = 0; r < count; ++r) {
      const Expected e =
          expected_on_tiles(m.type, w, std::span(x).subspan(static_cast<std::size_t>(r * m.columns), w.size()));
      const double error = y[static_cast<std::size_t>(r * m.rows + o)] - e.sum;
      ASSERT_LE(std::abs(error), e.bound * 1.001 + 1e-5 * std::abs(e.sum) + 1e-30)
          << type_info(m.type).name << " " << m.rows << "x" << m.columns << " rows " << count << ": " << o << " " << r;
      errors += error * error;
      variances += e.variance;
    }
  }
  if (m.rows * m.columns > 4096) {
    EXPECT_LE(errors, variances * 1.5 + 1e-30) << type_info(m.type).name << " " << m.rows << "x" << m.columns;
  }
}

TEST_F(MatrixTest, TilesAreTheSumOfProducts) {
  if (kernel_rows().back()->int8_panel == nullptr) GTEST_SKIP() << "this CPU has no matrix unit";
  choose(*kernel_rows().back());
  for (const Type type : kAll) {
    if (!reads_tiles(type, 1024)) continue;
    for (const auto& [rows, columns, count] :
         {std::array{21, 1024, 3}, {33, 2048, 40}, {70, 1536, 19}, {16, 1792, 97}, {50, 1280, 130}}) {
      expect_tiles(random_matrix(type, rows, columns, 4), normals(static_cast<std::size_t>(count * columns), 5, 1e4f),
                   count, pool);
      expect_tiles(noise_matrix(type, rows, columns, 3), normals(static_cast<std::size_t>(count * columns), 6, 1e-9f),
                   count, pool);
    }
  }
}

TEST_F(MatrixTest, TilesTakeAnyColumns) {
  if (kernel_rows().back()->int8_panel == nullptr) GTEST_SKIP() << "this CPU has no matrix unit";
  choose(*kernel_rows().back());
  for (const Type type : kAll)
    for (const int columns : {1, 2, 7, 33, 32, 64, 800, 832, 896, 1056, 1568}) {
      if (columns % type_info(type).block != 0 || !reads_tiles(type, columns)) continue;
      for (const int count : {1, 6, 20, 50, 70})
        expect_tiles(random_matrix(type, 19, columns, 1), normals(static_cast<std::size_t>(count * columns), 2), count,
                     pool);
    }
}

TEST_F(MatrixTest, NarrowRowsStayWithTheVectorKernels) {
  const Matrix m = random_matrix(Type::q4_0, 33, kNarrowColumns, 1);
  const std::vector<float> x = normals(5 * kNarrowColumns, 2);
  choose(*kernel_rows().front());
  const std::vector<float> expected = product(packed({m.raw()}, pool), x, 5, pool);
  for (const Kernels* row : kernel_rows()) {
    choose(*row);
    EXPECT_EQ(product(packed({m.raw()}, pool), x, 5, pool), expected) << row->isa;
  }
}

TEST_F(MatrixTest, EveryExactRowOfTheTableGivesTheBitsOfRef) {
  struct Case {
    int rows, columns, count;
  };
  const Case cases[] = {{1, 256, 1},   {16, 256, 2},  {17, 512, 3}, {33, 1024, 5},
                        {70, 256, 40}, {48, 768, 17}, {5, 4096, 9}, {64, 512, 33}};
  for (const Type type : kAll) {
    for (const Case& c : cases) {
      for (const bool noise : {false, true}) {
        const Matrix m = noise ? noise_matrix(type, c.rows, c.columns, 11) : random_matrix(type, c.rows, c.columns, 12);
        std::vector<float> x = normals(static_cast<std::size_t>(c.count * c.columns), 13, noise ? 100 : 1);
        if (noise) {
          std::fill(x.begin() + 32, x.begin() + 96, 0.0f);  // scale 0
          for (int k = 128; k < 160; ++k)
            x[static_cast<std::size_t>(k)] = k % 2 == 0 ? 3.0f : -3.0f;  // codes at both ends
          x[200] = 1e-37f;
        }
        choose(*kernel_rows().front());
        const PackedMatrix w = packed({m.raw()}, pool);
        const std::vector<float> expected = product(w, x, c.count, pool);
        for (const Kernels* row : exact_rows()) {
          choose(*row);
          ASSERT_EQ(product(w, x, c.count, pool), expected)
              << row->isa << " " << type_info(type).name << " " << c.rows << "x" << c.columns << " rows " << c.count;
        }
      }
    }
  }
}

TEST_F(MatrixTest, SmallBlocksTakeAnyMultipleOf32) {
  for (const Type type : kAll) {
    if (type_info(type).block > 32) continue;
    for (const int columns : {32, 64, 96, 288, 896}) {
      const Matrix m = random_matrix(type, 19, columns, 1);
      const std::vector<float> x = normals(static_cast<std::size_t>(4 * columns), 2);
      choose(*kernel_rows().front());
      const PackedMatrix w = packed({m.raw()}, pool);
      const std::vector<float> expected = product(w, x, 4, pool);
      for (const Kernels* row : exact_rows()) {
        choose(*row);
        ASSERT_EQ(product(w, x, 4, pool), expected) << row->isa << " " << type_info(type).name << " " << columns;
      }
    }
  }
}

TEST_F(MatrixTest, FloatTypesTakeAnyColumns) {
  for (const Type type : {Type::f32, Type::f16, Type::bf16})
    for (const int columns : {1, 2, 7, 33}) {
      const Matrix m = random_matrix(type, 18, columns, 1);
      const std::vector<float> x = normals(static_cast<std::size_t>(6 * columns), 2);
      choose(*kernel_rows().front());
      const PackedMatrix w = packed({m.raw()}, pool);
      const std::vector<float> expected = product(w, x, 6, pool);
      for (const Kernels* row : exact_rows()) {
        choose(*row);
        ASSERT_EQ(product(w, x, 6, pool), expected) << row->isa << " " << type_info(type).name << " " << columns;
      }
    }
}

TEST_F(MatrixTest, ARowDoesNotDependOnItsCompany) {
  ThreadPool alone(1);
  for (const Kernels* row : kernel_rows()) {
    if (row == kernel_rows().front()) continue;  // held to the others above
    choose(*row);
    for (const Type type : kAll) {
      const int columns = 1280, most = 140;
      const Matrix m = random_matrix(type, 100, columns, 21);
      const PackedMatrix w = packed({m.raw()}, pool);
      const std::vector<float> x = normals(static_cast<std::size_t>(most * columns), 22);
      std::vector<float> singly;
      for (int r = 0; r < most; ++r) {
        const std::vector<float> one(x.begin() + r * columns, x.begin() + (r + 1) * columns);
        const std::vector<float> y = product(w, one, 1, alone);
        singly.insert(singly.end(), y.begin(), y.end());
      }
      for (int count = 1; count <= most; count += count < 20 ? 1 : 7) {
        const std::vector<float> y = product(w, {x.begin(), x.begin() + count * columns}, count, pool);
        ASSERT_TRUE(std::equal(y.begin(), y.end(), singly.begin()))
            << row->isa << " " << type_info(type).name << " " << count;
      }
    }
  }
}

TEST_F(MatrixTest, WhatIsNotFiniteShowsInItsRowOnly) {
  constexpr int kColumns = 1280, kNotFinite = 1, kTiny = 2;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Kernels* row : kernel_rows()) {
    choose(*row);
    for (const Type type : kAll)
      for (const int count : {3, 7, 12, 40, 70}) {
        const PackedMatrix w = packed({random_matrix(type, 20, kColumns, 31).raw()}, pool);
        std::vector<float> x = normals(static_cast<std::size_t>(count * kColumns), 32);
        std::fill_n(x.begin() + kTiny * kColumns, kColumns, 1e-38f);
        const std::vector<float> before = product(w, x, count, pool);
        x[kNotFinite * kColumns + 700] = row->int8_panel == nullptr ? kInfinity : std::nanf("");
        x[kNotFinite * kColumns + 710] = -kInfinity;
        const std::vector<float> after = product(w, x, count, pool);
        for (int i = 0; i < count * 20; ++i) {
          const float y = after[static_cast<std::size_t>(i)];
          if (i / 20 == kNotFinite)
            ASSERT_FALSE(std::isfinite(y)) << row->isa << " " << type_info(type).name << " " << count;
          else
            ASSERT_EQ(y, before[static_cast<std::size_t>(i)])
                << row->isa << " " << type_info(type).name << " " << count;
        }
      }
  }
}

TEST_F(MatrixTest, StackedTypesGiveTheirSeparateProducts) {
  const Matrix q = random_matrix(Type::q4_k, 40, 512, 1), k = random_matrix(Type::q6_k, 24, 512, 2);
  const Matrix v = random_matrix(Type::bf16, 9, 512, 3);
  const std::vector<float> x = normals(5 * 512, 4);
  const PackedMatrix all = packed({q.raw(), k.raw(), v.raw()}, pool);
  ASSERT_EQ(all.rows(), 73);
  const std::vector<float> together = product(all, x, 5, pool);
  int first = 0;
  for (const Matrix* part : {&q, &k, &v}) {
    const std::vector<float> y = product(packed({part->raw()}, pool), x, 5, pool);
    for (int r = 0; r < 5; ++r)
      for (int o = 0; o < part->rows; ++o)
        ASSERT_EQ(together[static_cast<std::size_t>(r * 73 + first + o)],
                  y[static_cast<std::size_t>(r * part->rows + o)]);
    first += part->rows;
  }
}

TEST_F(MatrixTest, GroupsOfRowsMeetTheirOwnWeightsAsIfAlone) {
  constexpr int kColumns = 1536;
  const std::vector<int> group_rows{1, 17, 3, 40, 8, 5};
  for (const Kernels* row : kernel_rows()) {
    choose(*row);
    for (const Type type : kAll) {
      if (kColumns % type_info(type).block != 0) continue;
      std::vector<PackedMatrix> w;
      std::vector<Product> products;
      std::vector<float> expected;
      const std::vector<float> x = normals(static_cast<std::size_t>(74 * kColumns), 7);
      for (unsigned i = 0; i < group_rows.size(); ++i)
        w.push_back(packed(
            {random_matrix(type, 20, kColumns, i).raw(), random_matrix(type, 33, kColumns, i + 50).raw()}, pool));
      std::vector<float> y(74 * 53);
      int first = 0;
      for (std::size_t i = 0; i < w.size(); first += group_rows[i++]) {
        const auto from = x.begin() + static_cast<std::ptrdiff_t>(first) * kColumns;
        const auto alone = product(w[i], {from, from + group_rows[i] * kColumns}, group_rows[i], pool);
        expected.insert(expected.end(), alone.begin(), alone.end());
        products.push_back({.w = &w[i], .group = static_cast<int>(i), .y = y.data() + 53 * first});
      }
      Activations a;
      a.assign_groups(x.data(), kColumns, group_rows, 8, kColumns, w[0].forms(), pool);
      matmul(products, a, 53, pool);
      ASSERT_EQ(y, expected) << row->isa << " " << type_info(type).name;
    }
  }
}

TEST_F(MatrixTest, PackRefusesWhatDoesNotFit) {
  const Matrix a = random_matrix(Type::q8_0, 2, 64, 1), b = random_matrix(Type::q8_0, 2, 96, 1);
  EXPECT_EQ(pack(std::vector<RawMatrix>{}, pool).error().code, Code::invalid);
  EXPECT_EQ(pack(std::vector{a.raw(), b.raw()}, pool).error().code, Code::invalid);
  RawMatrix odd = a.raw();
  odd.columns = 48;
  EXPECT_EQ(pack(std::vector{odd}, pool).error().code, Code::invalid);
}

TEST_F(MatrixTest, AnUnknownIsaNamesTheKnown) {
  const Status status = select_isa("avx1024");
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("ref"), std::string::npos);
}

}  // namespace
}  // namespace ashlar::kernels
