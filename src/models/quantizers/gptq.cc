#include "models/quantizers/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/blocks.h"
#include "kernels/matrix.h"
#include "models/quantizers/dense.h"

namespace ashlar::models {

using kernels::Parts;
using kernels::Type;

namespace {

constexpr int kColumns = 256;  // rounded between two products with R: whole blocks of every type
constexpr int kRows = 512;     // of w at once

// How one block's codes become values.
struct Grid {
  Grid(Type type, const Parts& parts)
      : parts(parts),
        layout(kernels::kLayouts[kernels::format_of(type)]),
        sub(kernels::kBlock / layout.subs),
        d(kernels::f16_to_f32(parts.d)),
        dmin(layout.min ? kernels::f16_to_f32(parts.dmin) : 0),
        table(type == Type::iq4_nl || type == Type::iq4_xs) {}

  // The code nearest to `target`, and its value.
  std::pair<std::uint8_t, float> round(float target, int at) const {
    const bool super = layout.blocks > 1;
    const float scale = super ? d * static_cast<float>(parts.scales[at / sub]) : d;
    const float min = super ? -dmin * static_cast<float>(layout.min ? parts.mins[at / sub] : 0) : dmin;
    if (scale == 0) return {static_cast<std::uint8_t>(layout.offset), min};
    const float v = (target - min) / scale;
    if (table) {
      int best = 0;
      for (int i = 1; i < 16; ++i)
        if (std::abs(v - value(i)) < std::abs(v - value(best))) best = i;
      return {static_cast<std::uint8_t>(best), scale * value(best)};
    }
    const float top = static_cast<float>((1 << layout.bits) - 1);
    const float code = std::clamp(std::nearbyint(v + static_cast<float>(layout.offset)), 0.0f, top);
    return {static_cast<std::uint8_t>(code), scale * (code - static_cast<float>(layout.offset)) + min};
  }
  static float value(int code) { return static_cast<float>(kernels::kIq4Table[code]) - 128; }

  const Parts& parts;
  const kernels::Layout& layout;
  int sub;
  float d, dmin;
  bool table;
};

}  // namespace

Result<Curvature> Curvature::create(std::vector<float> h, int n, const GptqOptions& options, ThreadPool& pool) {
  const auto stride = static_cast<std::size_t>(n);
  Curvature out;
  out.ordered_ = options.activation_order;
  out.importance_.resize(stride);
  for (std::size_t i = 0; i < stride; ++i) out.importance_[i] = h[i * (stride + 1)];
  const double mean = std::accumulate(out.importance_.begin(), out.importance_.end(), 0.0) / n;
  out.column_at_.resize(stride);
  std::iota(out.column_at_.rbegin(), out.column_at_.rend(), 0);
  if (options.activation_order)
    std::ranges::sort(out.column_at_, {},
                      [&](int c) { return std::pair(out.importance_[static_cast<std::size_t>(c)], -c); });
  // Columns that nothing ever reaches would leave H singular, and so may too little text.
  for (double damping = options.damping * mean + 1e-20;; damping *= 10) {
    out.r_.resize(stride * stride);
    pool.for_each(n, [&](int i, int) {
      const auto from = static_cast<std::size_t>(out.column_at_[static_cast<std::size_t>(i)]) * stride;
      float* row = out.r_.data() + static_cast<std::size_t>(i) * stride;
      for (std::size_t j = static_cast<std::size_t>(i); j < stride; ++j)
        row[j] = h[from + static_cast<std::size_t>(out.column_at_[j])];
      row[i] += static_cast<float>(damping);
    });
    if (cholesky(out.r_, n, pool)) return out;
    if (!(damping < 1e6 * (mean + 1))) return Error{Code::corrupt, "a layer's activations are not finite"};
  }
}

class Gptq {
 public:
  Gptq(std::span<const float> w, Type type, const Curvature& curvature, ThreadPool& pool)
      : w_(w),
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
    error_.resize(static_cast<std::size_t>(kRows) * static_cast<std::size_t>(n_));
    for (int first = 0; first < rows_; first += kRows) {
      const int count = std::min(kRows, rows_ - first);
      if (curvature_.ordered_)
        pool_.for_each(count, [&](int row, int) { choose(row, w_.data() + at(first + row), 0, blocks_); });
      for (int end = n_; end > 0; end -= std::min(end, kColumns)) TRY(round(first, count, end));
      pool_.for_each(count, [&](int row, int) {
        std::byte* to = out.data() + kernels::row_bytes(type_, n_) * static_cast<std::size_t>(first + row);
        for (int b = 0; b < blocks_; ++b, to += kernels::type_info(type_).bytes)
          kernels::put_together(type_, parts(row, b), to);
      });
    }
    return out;
  }

 private:
  std::ptrdiff_t at(int row) const { return static_cast<std::ptrdiff_t>(row) * n_; }
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

  // Columns of R [begin, end), of some rows: what the ones behind left, then their own.
  Status round(int first, int count, int end) {
    const int begin = std::max(0, end - kColumns), size = end - begin, behind = n_ - end;
    left_.assign(static_cast<std::size_t>(count) * static_cast<std::size_t>(size), 0);
    if (behind > 0) {
      strip_.resize(static_cast<std::size_t>(size) * static_cast<std::size_t>(behind));
      for (int i = 0; i < size; ++i)
        std::copy_n(curvature_.r_.data() + at(begin + i) + end, behind,
                    strip_.data() + static_cast<std::ptrdiff_t>(i) * behind);
      const kernels::RawMatrix raw{.type = Type::f32,
                                   .rows = size,
                                   .columns = behind,
                                   .data = reinterpret_cast<const std::byte*>(strip_.data())};
      const auto packed = TRY(kernels::pack({&raw, 1}, pool_));
      activations_.assign(error_.data() + end, static_cast<std::size_t>(n_), count, behind, packed.forms(), pool_);
      kernels::matmul(packed, activations_, left_.data(), static_cast<std::size_t>(size), pool_);
    }
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

  std::span<const float> w_;
  Type type_;
  const Curvature& curvature_;
  ThreadPool& pool_;
  int n_, rows_, block_, blocks_;
  std::vector<Parts> parts_;  // [kRows, blocks_]
  std::vector<float> error_;  // [kRows, n_], in the columns of R
  std::vector<float> left_;   // [count, size]: R e of the columns behind
  std::vector<float> strip_, turned_;
  kernels::Activations activations_;
};

Result<std::vector<std::byte>> gptq(std::span<const float> w, Type type, const Curvature& curvature, ThreadPool& pool) {
  return Gptq(w, type, curvature, pool).run();
}

}  // namespace ashlar::models
