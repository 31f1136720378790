#include "models/quantizers/coded_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/blocks.h"
#include "kernels/float8.h"
#include "models/quantizers/column_rounding.h"

namespace ashlar::models {
namespace {

constexpr float kMostF16 = 65504;
constexpr int kShrinks = 16;             // scales tried below that of the greatest,
constexpr float kShrinkStep = 0.03f;     // each by so much of it
constexpr float kLeastScale = 0x1p-24f;  // that F16 holds

using Levels = CodeForm::Levels;
using Scales = CodeForm::Scales;

// A group's scale and zero.
struct Grid {
  float scale = 1;
  int zero = 0;
};

float in_halves(float scale) {
  const float half = kernels::f16_to_f32(kernels::f32_to_f16(std::min(scale, kMostF16)));
  return scale > 0 ? std::max(half, kLeastScale) : half;
}

int top_of(const CodeForm& form) { return (1 << form.bits) - 1; }

std::uint8_t code_of(const CodeForm& form, const Grid& grid, float w) {
  switch (form.levels) {
    case Levels::f8_e4m3:
      return kernels::f32_to_f8_e4m3(w / grid.scale);
    case Levels::f8_e5m2:
      return kernels::f32_to_f8_e5m2(w / grid.scale);
    case Levels::integers:
      break;
  }
  const float code = std::nearbyint(w / grid.scale) + static_cast<float>(grid.zero);
  return static_cast<std::uint8_t>(std::clamp(code, 0.0f, static_cast<float>(top_of(form))));
}

float value_of(const CodeForm& form, const Grid& grid, std::uint8_t code) {
  switch (form.levels) {
    case Levels::f8_e4m3:
      return grid.scale * kernels::f8_e4m3_to_f32(code);
    case Levels::f8_e5m2:
      return grid.scale * kernels::f8_e5m2_to_f32(code);
    case Levels::integers:
      break;
  }
  return grid.scale * static_cast<float>(code - grid.zero);
}

// From the least and the greatest (which are on either side of 0), both brought nearer by `shrink`.
Grid grid_between(const CodeForm& form, float least, float greatest, float shrink) {
  const float most = std::max(-least, greatest) * shrink;
  const auto top = static_cast<float>(top_of(form));
  Grid grid;
  if (form.levels != Levels::integers) {
    grid.scale = most / (form.levels == Levels::f8_e4m3 ? 448.0f : 57344.0f);
  } else if (form.symmetric) {
    grid.zero = 1 << (form.bits - 1);
    grid.scale = form.greatest_127 ? most / 127 : 2 * most / top;
  } else {
    grid.scale = (greatest - least) * shrink / top;
  }
  if (form.halves) grid.scale = in_halves(grid.scale);
  if (!(grid.scale > 0)) grid.scale = 1;  // all are 0
  if (form.levels == Levels::integers && !form.symmetric) {
    const float zero = std::nearbyint(-least * shrink / grid.scale);
    grid.zero = static_cast<int>(std::clamp(zero, static_cast<float>(form.least_zero), top));
    if (zero < static_cast<float>(form.least_zero)) {  // no weight is below 0: the greatest must still have a code
      grid.scale = greatest * shrink / (top - static_cast<float>(grid.zero));
      if (form.halves) grid.scale = in_halves(grid.scale);
      if (!(grid.scale > 0)) grid.scale = 1;
    }
  }
  return grid;
}

double loss_of(const CodeForm& form, const Grid& grid, std::span<const float> w, std::span<const float> importance) {
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double off = double{value_of(form, grid, code_of(form, grid, w[i]))} - double{w[i]};
    sum += off * off * (importance.empty() ? 1 : double{importance[i]});
  }
  return sum;
}

// Of integers the greatest may lose for the others' good. Levels of floats lie twice as dense below a power of two as
// above it, so that it matters where within an octave the large weights fall; none is cut off.
float shrink_of(const CodeForm& form, int i) {
  return form.levels == Levels::integers ? 1 - kShrinkStep * static_cast<float>(i)
                                         : std::exp2(static_cast<float>(i) / kShrinks);
}

Grid choose_grid(const CodeForm& form, std::span<const float> w, std::span<const float> importance) {
  float least = 0, greatest = 0;
  for (const float x : w) {
    least = std::min(least, x);
    greatest = std::max(greatest, x);
  }
  Grid best = grid_between(form, least, greatest, 1);
  if (form.scales == Scales::whole || (importance.empty() && form.levels == Levels::integers)) return best;
  double lost = loss_of(form, best, w, importance);
  for (int i = 1; i <= kShrinks; ++i) {
    const Grid grid = grid_between(form, least, greatest, shrink_of(form, i));
    const double loss = loss_of(form, grid, w, importance);
    if (loss >= lost) continue;
    lost = loss;
    best = grid;
  }
  return best;
}

CodedMatrix empty_matrix(std::span<const float> w, int columns, const CodeForm& form) {
  const int group = form.group_columns(columns);
  CodedMatrix out{.form = form,
                  .rows = static_cast<int>(w.size() / static_cast<std::size_t>(columns)),
                  .columns = columns,
                  .groups = (columns + group - 1) / group};
  out.codes.resize(w.size());
  out.scales.resize(static_cast<std::size_t>(out.rows) * static_cast<std::size_t>(out.groups));
  out.zeros.resize(out.scales.size());
  return out;
}

Grid grid_of(const CodedMatrix& m, std::size_t at) { return {m.scales[at], m.zeros[at]}; }

void set(CodedMatrix& m, std::size_t at, const Grid& grid) {
  m.scales[at] = grid.scale;
  m.zeros[at] = static_cast<std::uint8_t>(grid.zero);
}

// Of F16 scales a group's greatest weight is at most the greatest scale times the greatest level.
Status check_sizes(std::span<const float> w, const CodeForm& form) {
  if (!form.halves) return {};
  const float most = kMostF16 * static_cast<float>(top_of(form)) / 2;
  for (const float x : w)
    if (std::abs(x) > most)
      return Error{Code::invalid, fmt::format("holds {:g}, which {} bits under a scale of 16 cannot", x, form.bits)};
  return {};
}

}  // namespace

void CodedMatrix::values(int row, float* out) const {
  const int size = form.group_columns(columns);
  const std::size_t first = static_cast<std::size_t>(row) * static_cast<std::size_t>(columns);
  for (int c = 0; c < columns; ++c) {
    const std::size_t group =
        static_cast<std::size_t>(row) * static_cast<std::size_t>(groups) + static_cast<std::size_t>(c / size);
    out[c] = value_of(form, grid_of(*this, group), codes[first + static_cast<std::size_t>(c)]);
  }
}

Result<CodedMatrix> round_matrix(std::span<const float> w, int columns, const CodeForm& form,
                                 std::span<const float> importance, ThreadPool& pool) {
  TRY(check_sizes(w, form));
  CodedMatrix out = empty_matrix(w, columns, form);
  const Grid whole = form.scales == Scales::whole ? choose_grid(form, w, {}) : Grid{};
  const auto n = static_cast<std::size_t>(columns), size = static_cast<std::size_t>(form.group_columns(columns));
  pool.for_each(out.rows, [&](int r, int) {
    const std::span<const float> row = w.subspan(static_cast<std::size_t>(r) * n, n);
    std::size_t at = static_cast<std::size_t>(r) * static_cast<std::size_t>(out.groups);
    for (std::size_t c = 0; c < n; c += size, ++at) {
      const std::size_t count = std::min(size, n - c);
      const Grid grid = form.scales == Scales::whole
                            ? whole
                            : choose_grid(form, row.subspan(c, count),
                                          importance.empty() ? importance : importance.subspan(c, count));
      set(out, at, grid);
      for (std::size_t i = c; i < c + count; ++i)
        out.codes[static_cast<std::size_t>(r) * n + i] = code_of(form, grid, row[i]);
    }
  });
  return out;
}

void round_row(std::span<float> row, const CodeForm& form, std::span<const float> importance) {
  const auto size = static_cast<std::size_t>(form.group_columns(static_cast<int>(row.size())));
  for (std::size_t c = 0; c < row.size(); c += size) {
    const std::span<float> group = row.subspan(c, std::min(size, row.size() - c));
    const Grid grid = choose_grid(form, group, importance.empty() ? importance : importance.subspan(c, group.size()));
    for (float& w : group) w = value_of(form, grid, code_of(form, grid, w));
  }
}

namespace {

// Some rows of a matrix in groups. A group's scale is chosen when its turn comes, for the weights as they have become,
// where it lies within one piece of columns.
class GroupRounder {
 public:
  static constexpr int kColumns = 128;  // of a piece

  // `first`: of the rows at hand.
  GroupRounder(CodedMatrix& out, std::span<const float> w, int first, const Curvature& curvature)
      : out_(out),
        w_(w),
        first_(first),
        n_(curvature.columns()),
        group_(out.form.group_columns(n_)),
        importance_(curvature.importance()),
        chosen_before_(curvature.ordered() || out.form.scales == Scales::whole || kColumns % group_ != 0) {}

  bool chosen_before() const { return chosen_before_; }
  // `whole`: of a form with one scale for the matrix.
  void choose_all(int row, const Grid& whole) {
    if (out_.form.scales == Scales::whole) return set(out_, group_at(row, 0), whole);
    for (int c = 0; c < n_; c += group_)
      choose(row, c, {weights(row) + c, static_cast<std::size_t>(std::min(group_, n_ - c))});
  }

  void choose(int row, const ColumnPiece& piece, int i, const float* left) {
    if (chosen_before_ || piece.column(i) % group_ != 0) return;
    float become[ColumnPiece::kMost];
    const int count = std::min(group_, i + 1);
    piece.settle(weights(row), left, i, count, become);
    choose(row, piece.column(i), {become, static_cast<std::size_t>(count)});
  }

  float round(int row, int column, float target) {
    const Grid grid = grid_of(out_, group_at(row, column));
    const std::uint8_t code = code_of(out_.form, grid, target);
    out_.codes[static_cast<std::size_t>(first_ + row) * static_cast<std::size_t>(n_) +
               static_cast<std::size_t>(column)] = code;
    return value_of(out_.form, grid, code);
  }

 private:
  const float* weights(int row) const { return w_.data() + static_cast<std::ptrdiff_t>(row) * n_; }
  std::size_t group_at(int row, int column) const {
    return static_cast<std::size_t>(first_ + row) * static_cast<std::size_t>(out_.groups) +
           static_cast<std::size_t>(column / group_);
  }
  // The scale of the group that begins with `column`.
  void choose(int row, int column, std::span<const float> x) {
    set(out_, group_at(row, column),
        choose_grid(out_.form, x, importance_.subspan(static_cast<std::size_t>(column), x.size())));
  }

  CodedMatrix& out_;
  std::span<const float> w_;
  int first_, n_, group_;
  std::span<const float> importance_;
  bool chosen_before_;
};

}  // namespace

Result<CodedMatrix> gptq_matrix(std::span<const float> w, const CodeForm& form, const Curvature& curvature,
                                ThreadPool& pool) {
  constexpr int kRows = 512;  // at once
  TRY(check_sizes(w, form));
  CodedMatrix out = empty_matrix(w, curvature.columns(), form);
  const Grid whole = form.scales == Scales::whole ? choose_grid(form, w, {}) : Grid{};
  const auto n = static_cast<std::size_t>(curvature.columns());
  ColumnRounding columns(curvature, GroupRounder::kColumns, pool);
  for (int first = 0; first < out.rows; first += kRows) {
    const int count = std::min(kRows, out.rows - first);
    const auto piece = w.subspan(static_cast<std::size_t>(first) * n, static_cast<std::size_t>(count) * n);
    GroupRounder rounder(out, piece, first, curvature);
    if (rounder.chosen_before()) pool.for_each(count, [&](int row, int) { rounder.choose_all(row, whole); });
    TRY(columns.run(piece, {}, rounder));
  }
  return out;
}

}  // namespace ashlar::models
