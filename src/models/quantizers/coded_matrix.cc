#include "models/quantizers/coded_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/blocks.h"
#include "kernels/float8.h"
#include "kernels/matrix.h"

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
    sum += off * off * double{importance[i]};
  }
  return sum;
}

Grid choose(const CodeForm& form, std::span<const float> w, std::span<const float> importance) {
  float least = 0, greatest = 0;
  for (const float x : w) {
    least = std::min(least, x);
    greatest = std::max(greatest, x);
  }
  Grid best = grid_between(form, least, greatest, 1);
  if (importance.empty() || form.levels != Levels::integers) return best;
  double lost = loss_of(form, best, w, importance);
  for (int i = 1; i <= kShrinks; ++i) {
    const Grid grid = grid_between(form, least, greatest, 1 - kShrinkStep * static_cast<float>(i));
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
  const Grid whole = form.scales == Scales::whole ? choose(form, w, {}) : Grid{};
  const auto n = static_cast<std::size_t>(columns), size = static_cast<std::size_t>(form.group_columns(columns));
  pool.for_each(out.rows, [&](int r, int) {
    const std::span<const float> row = w.subspan(static_cast<std::size_t>(r) * n, n);
    std::size_t at = static_cast<std::size_t>(r) * static_cast<std::size_t>(out.groups);
    for (std::size_t c = 0; c < n; c += size, ++at) {
      const std::size_t count = std::min(size, n - c);
      const Grid grid =
          form.scales == Scales::whole
              ? whole
              : choose(form, row.subspan(c, count), importance.empty() ? importance : importance.subspan(c, count));
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
    const Grid grid = choose(form, group, importance.empty() ? importance : importance.subspan(c, group.size()));
    for (float& w : group) w = value_of(form, grid, code_of(form, grid, w));
  }
}

// As gptq.cc has it for blocks: columns of R from the last to the first, what those behind left brought in by a
// product for many of them at once.
class GroupGptq {
 public:
  GroupGptq(std::span<const float> w, const CodeForm& form, const Curvature& curvature, ThreadPool& pool)
      : w_(w), curvature_(curvature), pool_(pool), n_(curvature.columns()), out_(empty_matrix(w, n_, form)) {
    const int group = form.group_columns(n_);
    // Chosen when their turn comes, for the weights as they have become, where a group lies within one piece.
    chosen_before_ = curvature.ordered_ || kColumns % group != 0;
  }

  Result<CodedMatrix> run() {
    TRY(check_sizes(w_, out_.form));
    error_.resize(static_cast<std::size_t>(kRows) * size(n_));
    for (int first = 0; first < out_.rows; first += kRows) {
      const int count = std::min(kRows, out_.rows - first);
      if (chosen_before_) pool_.for_each(count, [&](int row, int) { choose_all(first + row); });
      for (int end = n_; end > 0; end -= std::min(end, kColumns)) TRY(round(first, count, end));
    }
    return std::move(out_);
  }

 private:
  static constexpr int kColumns = 128;  // of R, at once
  static constexpr int kRows = 512;     // of W

  static std::size_t size(int n) { return static_cast<std::size_t>(n); }
  const float* weights(int row) const { return w_.data() + size(row) * size(n_); }
  std::size_t group_at(int row, int column) const {
    return size(row) * size(out_.groups) + size(column / out_.form.group_columns(n_));
  }

  void choose_all(int row) {
    const int group = out_.form.group_columns(n_);
    for (int c = 0; c < n_; c += group) {
      const std::size_t count = size(std::min(group, n_ - c));
      set(out_, group_at(row, c),
          choose(out_.form, {weights(row) + c, count}, std::span(curvature_.importance_).subspan(size(c), count)));
    }
  }

  // Columns of R [begin, end), of some rows.
  Status round(int first, int count, int end) {
    const int begin = std::max(0, end - kColumns), here = end - begin, behind = n_ - end;
    left_.assign(size(count) * size(here), 0);
    if (behind > 0) {
      strip_.resize(size(here) * size(behind));
      for (int i = 0; i < here; ++i)
        std::copy_n(curvature_.r_.data() + size(begin + i) * size(n_) + size(end), behind,
                    strip_.data() + size(i) * size(behind));
      const kernels::RawMatrix raw{.type = kernels::Type::f32,
                                   .rows = here,
                                   .columns = behind,
                                   .data = reinterpret_cast<const std::byte*>(strip_.data())};
      const auto packed = TRY(kernels::pack({&raw, 1}, pool_));
      activations_.assign(error_.data() + end, size(n_), count, behind, packed.forms(), pool_);
      kernels::matmul(packed, activations_, left_.data(), size(here), pool_);
    }
    turned_.resize(size(here) * size(here));  // R's block, its columns as rows
    for (int i = 0; i < here; ++i)
      for (int j = 0; j <= i; ++j)
        turned_[size(i * here + j)] = curvature_.r_[size(begin + j) * size(n_) + size(begin + i)];
    pool_.for_each(count, [&](int row, int) { round_columns(first, row, begin, here); });
    return {};
  }

  void spread(float error, int i, int here, float* left) const {
    const float* column = turned_.data() + size(i) * size(here);
    for (int j = 0; j < i; ++j) left[j] += column[j] * error;
  }
  float diagonal(int i, int here) const { return turned_[size(i * here + i)]; }

  // Scales for the group that begins with R's column `i` of this piece: for the weights as they would become if
  // nothing were rounded any more.
  void choose_group(int row, const int* columns, int i, int here, const float* left) {
    const int group = std::min(out_.form.group_columns(n_), i + 1);
    float after[kColumns], become[kColumns];
    std::copy_n(left, i + 1, after);
    for (int k = i; k > i - group; --k) {
      const float move = after[k] / diagonal(k, here);
      become[i - k] = weights(row)[columns[k]] + move;
      spread(-move, k, here, after);
    }
    set(out_, group_at(row, columns[i]),
        choose(out_.form, {become, size(group)},
               std::span(curvature_.importance_).subspan(size(columns[i]), size(group))));
  }

  void round_columns(int first, int row, int begin, int here) {
    const int* columns = curvature_.column_at_.data() + begin;
    const float* w = weights(first + row);
    float left[kColumns];
    std::copy_n(left_.data() + size(row) * size(here), here, left);
    for (int i = here - 1; i >= 0; --i) {
      const int column = columns[i];
      if (!chosen_before_ && column % out_.form.group_columns(n_) == 0)
        choose_group(first + row, columns, i, here, left);
      const Grid grid = grid_of(out_, group_at(first + row, column));
      const std::uint8_t code = code_of(out_.form, grid, w[column] + left[i] / diagonal(i, here));
      out_.codes[size(first + row) * size(n_) + size(column)] = code;
      const float error = w[column] - value_of(out_.form, grid, code);
      error_[size(row) * size(n_) + size(begin + i)] = error;
      spread(error, i, here, left);
    }
  }

  std::span<const float> w_;
  const Curvature& curvature_;
  ThreadPool& pool_;
  int n_;
  CodedMatrix out_;
  bool chosen_before_ = false;
  std::vector<float> error_;  // [kRows, n_], in the columns of R
  std::vector<float> left_;   // [count, here]: R e of the columns behind
  std::vector<float> strip_, turned_;
  kernels::Activations activations_;
};

Result<CodedMatrix> gptq_matrix(std::span<const float> w, const CodeForm& form, const Curvature& curvature,
                                ThreadPool& pool) {
  return GroupGptq(w, form, curvature, pool).run();
}

}  // namespace ashlar::models
