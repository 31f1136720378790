#include "models/quantizers/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/blocks.h"
#include "models/quantizers/column_rounding.h"
#include "models/quantizers/dense.h"
#include "models/quantizers/descent.h"
#include "models/quantizers/grid.h"

namespace ashlar::models {

using kernels::Parts;
using kernels::Type;

namespace {

// Of w at once. What comes from the curvature is gathered and packed once for all of them.
constexpr std::size_t kElements = std::size_t{8} << 20, kLeastRows = 512;
static_assert(ColumnPiece::kMost % 256 == 0, "pieces are whole blocks of every type");

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
  constexpr int kAtOnce = 8;  // rows a power of two apart compete for the same few places of the cache
  const auto n = static_cast<std::size_t>(this->columns());
  for (int begin = 0; begin < columns; begin += kAtOnce)
    for (int r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(place_[static_cast<std::size_t>(row + r)]);
      for (int c = begin; c < std::min(columns, begin + kAtOnce); ++c) {
        const auto j = static_cast<std::size_t>(place_[static_cast<std::size_t>(column + c)]);
        out[static_cast<std::ptrdiff_t>(r) * columns + c] =
            i == j ? diagonal_[static_cast<std::size_t>(column + c)] : r_[std::max(i, j) * n + std::min(i, j)];
      }
    }
}

namespace {

// Rows of blocks. Scales are chosen for a whole piece of columns, or beforehand where the columns have an order.
class BlockRounder {
 public:
  BlockRounder(std::span<const float> w, Type type, const Curvature& curvature)
      : w_(w),
        type_(type),
        curvature_(curvature),
        block_(kernels::type_info(type).block),
        blocks_(curvature.columns() / block_),
        parts_(w.size() / static_cast<std::size_t>(block_)) {}

  std::span<Parts> parts() { return parts_; }

  void choose_all(int row) { choose(row, weights(row), 0, blocks_); }

  void choose(int row, const ColumnPiece& piece, int i, const float* left) {
    if (curvature_.ordered() || i + 1 < piece.size()) return;
    float become[ColumnPiece::kMost];
    piece.settle(weights(row), left, i, piece.size(), become);
    choose(row, become, piece.column(i) / block_, piece.size() / block_);
  }

  float round(int row, int column, float target) {
    Parts& parts = parts_[at(row, column / block_)];
    const auto [code, value] = Grid(type_, parts).round(target, column % block_);
    parts.codes[column % block_] = code;
    return value;
  }

 private:
  const float* weights(int row) const { return w_.data() + static_cast<std::ptrdiff_t>(row) * curvature_.columns(); }
  std::size_t at(int row, int block) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(blocks_) + static_cast<std::size_t>(block);
  }

  // Scales for some blocks of a row: x stands where the first of them begins.
  void choose(int row, const float* x, int first, int count) {
    const float* importance = curvature_.importance().data();
    double square = 0;
    for (int i = 0; i < count * block_; ++i) square += double{x[i]} * double{x[i]};
    for (int b = 0; b < count; b += kernels::kMostBlocks)
      kernels::choose_parts(type_, x + b * block_, std::min(kernels::kMostBlocks, count - b),
                            importance + (first + b) * block_, static_cast<float>(square / (count * block_)),
                            &parts_[at(row, first + b)]);
  }

  std::span<const float> w_;  // [rows, columns]
  Type type_;
  const Curvature& curvature_;
  int block_, blocks_;
  std::vector<Parts> parts_;  // [rows, blocks_]
};

}  // namespace

Result<std::vector<std::byte>> gptq(std::span<const float> w, std::span<const float> b, Type type,
                                    const Curvature& curvature, ThreadPool& pool) {
  const auto n = static_cast<std::size_t>(curvature.columns()), rows = w.size() / n;
  std::vector<std::byte> out(kernels::row_bytes(type, curvature.columns()) * rows);
  std::byte* to = out.data();
  Descent descent(
      type,
      [&](int row, int some, int column, int columns, float* piece) {
        curvature.piece(row, some, column, columns, piece);
      },
      curvature.columns(), pool);
  ColumnRounding columns(curvature, ColumnPiece::kMost, pool);
  const std::size_t step = std::max(kLeastRows, kElements / n);
  for (std::size_t first = 0; first < rows; first += step) {
    const auto piece = [&](std::span<const float> x) {
      return x.empty() ? x : x.subspan(first * n, std::min(step, rows - first) * n);
    };
    BlockRounder rounder(piece(w), type, curvature);
    if (curvature.ordered())
      pool.for_each(static_cast<int>(piece(w).size() / n), [&](int row, int) { rounder.choose_all(row); });
    TRY(columns.run(piece(w), piece(b), rounder));
    if (curvature.rounds() > 0) TRY(descent.run(piece(w), piece(b), rounder.parts(), curvature.rounds()));
    for (const Parts& parts : rounder.parts()) {
      kernels::put_together(type, parts, to);
      to += kernels::type_info(type).bytes;
    }
  }
  return out;
}

}  // namespace ashlar::models
