#include "models/quantizers/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/blocks.h"
#include "kernels/matrix.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/descent.h"
#include "models/quantizers/grid.h"

namespace ashlar::models {

using kernels::Parts;
using kernels::Type;

namespace {

constexpr int kColumns = 256;  // rounded between two products with R: whole blocks of every type
constexpr int kRows = 512;     // of w at once

}  // namespace

Result<Curvature> Curvature::create(std::vector<float> h, int n, const GptqOptions& options, ThreadPool& pool) {
  const auto stride = static_cast<std::size_t>(n);
  Curvature out;
  out.ordered_ = options.activation_order;
  out.rounds_ = options.rounds;
  out.diagonal_.resize(stride);
  for (std::size_t i = 0; i < stride; ++i) out.diagonal_[i] = h[i * (stride + 1)];
  const double mean = std::accumulate(out.diagonal_.begin(), out.diagonal_.end(), 0.0) / n;
  out.column_at_.resize(stride);
  std::iota(out.column_at_.rbegin(), out.column_at_.rend(), 0);
  if (options.activation_order)
    std::ranges::sort(out.column_at_, {},
                      [&](int c) { return std::pair(out.diagonal_[static_cast<std::size_t>(c)], -c); });
  out.place_.resize(stride);
  for (std::size_t i = 0; i < stride; ++i)
    out.place_[static_cast<std::size_t>(out.column_at_[i])] = static_cast<int>(i);
  // To R's order: in place where that is only turned round, for h is large.
  if (options.activation_order) {
    out.r_.resize(h.size());
    pool.for_each(n, [&](int i, int) {
      const auto from = static_cast<std::size_t>(out.column_at_[static_cast<std::size_t>(i)]) * stride;
      for (std::size_t j = 0; j < stride; ++j)
        out.r_[static_cast<std::size_t>(i) * stride + j] = h[from + static_cast<std::size_t>(out.column_at_[j])];
    });
    h = {};
  } else {
    std::ranges::reverse(h);
    out.r_ = std::move(h);
  }
  // Columns that nothing ever reaches would leave H singular, and so may too little text. What is below the diagonal
  // stays, so that what is above it can be tried again.
  for (double damping = options.damping * mean + 1e-20;; damping *= 10) {
    pool.for_each(n, [&](int row, int) {
      const auto i = static_cast<std::size_t>(row);
      for (std::size_t j = i + 1; j < stride; ++j) out.r_[i * stride + j] = out.r_[j * stride + i];
      out.r_[i * (stride + 1)] =
          out.diagonal_[static_cast<std::size_t>(out.column_at_[i])] + static_cast<float>(damping);
    });
    if (cholesky(out.r_, n, pool)) {
      for (float& d : out.diagonal_) d += static_cast<float>(damping);
      out.importance_.resize(stride);
      for (std::size_t i = 0; i < stride; ++i)
        out.importance_[static_cast<std::size_t>(out.column_at_[i])] =
            out.r_[i * (stride + 1)] * out.r_[i * (stride + 1)];
      return out;
    }
    if (!(damping < 1e6 * (mean + 1))) return Error{Code::corrupt, "a layer's activations are not finite"};
  }
}

void Curvature::piece(int row, int rows, int column, int columns, float* out) const {
  const auto n = static_cast<std::size_t>(this->columns());
  for (int c = 0; c < columns; ++c) {
    const auto j = static_cast<std::size_t>(place_[static_cast<std::size_t>(column + c)]);
    for (int r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(place_[static_cast<std::size_t>(row + r)]);
      out[static_cast<std::ptrdiff_t>(r) * columns + c] =
          i == j ? diagonal_[static_cast<std::size_t>(column + c)] : r_[std::max(i, j) * n + std::min(i, j)];
    }
  }
}

class Gptq {
 public:
  Gptq(std::span<const float> w, std::span<const float> b, Type type, const Curvature& curvature, ThreadPool& pool)
      : w_(w),
        b_(b),
        type_(type),
        curvature_(curvature),
        pool_(pool),
        n_(curvature.columns()),
        rows_(static_cast<int>(w.size() / static_cast<std::size_t>(n_))),
        block_(kernels::type_info(type).block),
        blocks_(n_ / block_) {}

  Result<std::vector<std::byte>> run() {
    std::vector<std::byte> out(kernels::row_bytes(type_, n_) * static_cast<std::size_t>(rows_));
    parts_.resize(static_cast<std::size_t>(kRows) * static_cast<std::size_t>(blocks_));
    Descent descent(
        type_,
        [&](int row, int rows, int column, int columns, float* to) {
          curvature_.piece(row, rows, column, columns, to);
        },
        n_, pool_);
    error_.resize(static_cast<std::size_t>(kRows) * static_cast<std::size_t>(n_));
    for (int first = 0; first < rows_; first += kRows) {
      const int count = std::min(kRows, rows_ - first);
      if (curvature_.ordered_)
        pool_.for_each(count, [&](int row, int) { choose(row, w_.data() + at(first + row), 0, blocks_); });
      if (!b_.empty()) TRY(carry(first, count));
      for (int end = n_; end > 0; end -= std::min(end, kColumns)) TRY(round(first, count, end));
      const auto piece = [&](std::span<const float> x) {
        return x.empty() ? x : x.subspan(static_cast<std::size_t>(at(first)), static_cast<std::size_t>(at(count)));
      };
      if (curvature_.rounds_ > 0)
        TRY(descent.run(piece(w_), piece(b_), std::span(parts_).first(static_cast<std::size_t>(count * blocks_)),
                        curvature_.rounds_));
      pool_.for_each(count, [&](int row, int) {
        std::byte* to = out.data() + kernels::row_bytes(type_, n_) * static_cast<std::size_t>(first + row);
        for (int b = 0; b < blocks_; ++b, to += kernels::type_info(type_).bytes)
          kernels::put_together(type_, parts(row, b), to);
      });
    }
    return out;
  }

 private:
  static std::ptrdiff_t at_of(int row, int length) { return static_cast<std::ptrdiff_t>(row) * length; }
  std::ptrdiff_t at(int row) const { return at_of(row, n_); }
  Parts& parts(int row, int block) {
    return parts_[static_cast<std::size_t>(row) * static_cast<std::size_t>(blocks_) + static_cast<std::size_t>(block)];
  }

  // Scales for some blocks of a row: x stands where the first of them begins.
  void choose(int row, const float* x, int first, int count) {
    const float* importance = curvature_.importance_.data();
    double square = 0;
    for (int i = 0; i < count * block_; ++i) square += double{x[i]} * double{x[i]};
    for (int b = 0; b < count; b += kernels::kMostBlocks)
      kernels::choose_parts(type_, x + b * block_, std::min(kernels::kMostBlocks, count - b),
                            importance + (first + b) * block_, static_cast<float>(square / (count * block_)),
                            &parts(row, first + b));
  }

  // A strip of R [size, length] with some rows of x: y [count, size].
  Status multiply(int size, int length, const float* x, int count) {
    const kernels::RawMatrix raw{
        .type = Type::f32, .rows = size, .columns = length, .data = reinterpret_cast<const std::byte*>(strip_.data())};
    const auto packed = TRY(kernels::pack({&raw, 1}, pool_));
    activations_.assign(x, static_cast<std::size_t>(n_), count, length, packed.forms(), pool_);
    kernels::matmul(packed, activations_, left_.data(), static_cast<std::size_t>(size), pool_);
    return {};
  }

  // z = R^-T b of some rows, from the first column on.
  Status carry(int first, int count) {
    carried_.resize(static_cast<std::size_t>(at(count)));
    for (int begin = 0; begin < n_; begin += kColumns) {
      const int size = std::min(kColumns, n_ - begin);
      left_.assign(static_cast<std::size_t>(count) * static_cast<std::size_t>(size), 0);
      if (begin > 0) {
        strip_.resize(static_cast<std::size_t>(size) * static_cast<std::size_t>(begin));
        for (int k = 0; k < begin; ++k)
          for (int i = 0; i < size; ++i)
            strip_[static_cast<std::size_t>(at_of(i, begin) + k)] =
                curvature_.r_[static_cast<std::size_t>(at(k) + begin + i)];
        TRY(multiply(size, begin, carried_.data(), count));
      }
      pool_.for_each(count, [&](int row, int) {
        const float* b = b_.data() + at(first + row);
        const float* left = left_.data() + at_of(row, size);
        float* z = carried_.data() + at(row) + begin;
        for (int j = 0; j < size; ++j) z[j] = b[curvature_.column_at_[static_cast<std::size_t>(begin + j)]] - left[j];
        for (int j = 0; j < size; ++j) {
          const float* r = curvature_.r_.data() + at(begin + j) + begin;
          z[j] /= r[j];
          for (int k = j + 1; k < size; ++k) z[k] -= r[k] * z[j];
        }
      });
    }
    return {};
  }

  // Columns of R [begin, end), of some rows: what the ones behind left, then their own.
  Status round(int first, int count, int end) {
    const int begin = std::max(0, end - kColumns), size = end - begin, behind = n_ - end;
    left_.assign(static_cast<std::size_t>(count) * static_cast<std::size_t>(size), 0);
    if (behind > 0) {
      strip_.resize(static_cast<std::size_t>(size) * static_cast<std::size_t>(behind));
      for (int i = 0; i < size; ++i)
        std::copy_n(curvature_.r_.data() + at(begin + i) + end, behind,
                    strip_.data() + static_cast<std::ptrdiff_t>(i) * behind);
      TRY(multiply(size, behind, error_.data() + end, count));
    }
    for (int row = 0; row < count && !b_.empty(); ++row)
      for (int i = 0; i < size; ++i)
        left_[static_cast<std::size_t>(at_of(row, size) + i)] +=
            carried_[static_cast<std::size_t>(at(row) + begin + i)];
    // R's block, its columns as rows.
    turned_.resize(static_cast<std::size_t>(size) * static_cast<std::size_t>(size));
    for (int i = 0; i < size; ++i)
      for (int j = 0; j <= i; ++j)
        turned_[static_cast<std::size_t>(i * size + j)] =
            curvature_.r_[static_cast<std::size_t>(at(begin + j) + begin + i)];
    pool_.for_each(count, [&](int row, int) { round_row(first, row, begin, size); });
    return {};
  }

  // Spreads the error of column i to those before it.
  void spread(float error, int i, int size, float* left) const {
    const float* column = turned_.data() + static_cast<std::ptrdiff_t>(i) * size;
    for (int j = 0; j < i; ++j) left[j] += column[j] * error;
  }

  void round_row(int first, int row, int begin, int size) {
    const float* w = w_.data() + at(first + row);
    const int* columns = curvature_.column_at_.data() + begin;
    float left[kColumns], become[kColumns];
    const float* left_of_row = left_.data() + static_cast<std::ptrdiff_t>(row) * size;
    const auto diagonal = [&](int i) { return turned_[static_cast<std::size_t>(i * size + i)]; };
    if (!curvature_.ordered_) {
      // In the matrix' order: where the weights would go if nothing were rounded any more.
      std::copy_n(left_of_row, size, left);
      for (int i = size - 1; i >= 0; --i) {
        const float move = left[i] / diagonal(i);
        become[size - 1 - i] = w[columns[i]] + move;
        spread(-move, i, size, left);
      }
      choose(row, become, columns[size - 1] / block_, size / block_);
    }
    std::copy_n(left_of_row, size, left);
    for (int i = size - 1; i >= 0; --i) {
      const int column = columns[i];
      Parts& parts_here = parts(row, column / block_);
      const auto [code, value] = Grid(type_, parts_here).round(w[column] + left[i] / diagonal(i), column % block_);
      parts_here.codes[column % block_] = code;
      const float error = w[column] - value;
      error_[static_cast<std::size_t>(at(row) + begin + i)] = error;
      spread(error, i, size, left);
    }
  }

  std::span<const float> w_, b_;
  Type type_;
  const Curvature& curvature_;
  ThreadPool& pool_;
  int n_, rows_, block_, blocks_;
  std::vector<Parts> parts_;    // [kRows, blocks_]
  std::vector<float> error_;    // [kRows, n_], in the columns of R
  std::vector<float> carried_;  // [kRows, n_], likewise: R^-T b
  std::vector<float> left_;     // [count, size]: R e of the columns behind
  std::vector<float> strip_, turned_;
  kernels::Activations activations_;
};

Result<std::vector<std::byte>> gptq(std::span<const float> w, std::span<const float> b, Type type,
                                    const Curvature& curvature, ThreadPool& pool) {
  return Gptq(w, b, type, curvature, pool).run();
}

}  // namespace ashlar::models
