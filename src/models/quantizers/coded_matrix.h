// Weights as the folders of other quantizers hold them: a code for each, a scale and a zero for each group of columns.
//
//   W[r, c] = scale(r, g) * (level(code(r, c)) - zero(r, g)),   g = c / group
//
// Rounded here to nearest by the least and the greatest of a group, as the papers do it ("RTN"), by the scale that
// loses least where columns matter differently, or by GPTQ over such groups.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/quantizers/gptq.h"

namespace ashlar::models {

struct CodeForm {
  enum class Levels { integers, f8_e4m3, f8_e5m2 };
  enum class Scales { groups, rows, whole };  // of columns within a row; one for each row; one for the matrix

  Levels levels = Levels::integers;
  int bits = 4;  // of an integer
  Scales scales = Scales::groups;
  int group = 128;
  bool symmetric = true;      // zeros are 2^(bits - 1); else what fits best
  int least_zero = 0;         // where they are not
  bool halves = true;         // scales are numbers that F16 holds
  bool greatest_127 = false;  // 8 bits: the greatest of a row becomes 127, as LLM.int8() has it

  int group_columns(int columns) const { return scales == Scales::groups ? group : columns; }
};

struct CodedMatrix {
  CodeForm form;
  int rows = 0, columns = 0, groups = 0;
  std::vector<std::uint8_t> codes;  // [rows, columns]; of 8-bit floats their bits
  std::vector<float> scales;        // [rows, groups]
  std::vector<std::uint8_t> zeros;  // [rows, groups]; of integers

  // A row as it is now: [columns].
  void values(int row, float* out) const;
};

// w [rows, columns], finite. `importance` [columns]: how much each column's error counts, and the scales are searched
// so that the least is lost; empty: by least and greatest alone. invalid: a group's weights are too large for F16
// scales.
Result<CodedMatrix> round_matrix(std::span<const float> w, int columns, const CodeForm& form,
                                 std::span<const float> importance, ThreadPool& pool);

// One row, of a form whose scales are not of the whole matrix, as it would become. Scratch for searches: no errors.
void round_row(std::span<float> row, const CodeForm& form, std::span<const float> importance);

// The same by GPTQ. exhausted: no memory.
Result<CodedMatrix> gptq_matrix(std::span<const float> w, const CodeForm& form, const Curvature& curvature,
                                ThreadPool& pool);

}  // namespace ashlar::models
