#include "models/quantizers/dense.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/kernels.h"
#include "kernels/matrix.h"

namespace ashlar::models {
namespace {

constexpr int kStep = 256;         // columns that are eliminated at once
constexpr int kStrip = 512;        // rows of a product's result at once
constexpr int kRowsAtOnce = 1024;  // of X, multiplied at once

// A strip [rows, k] as floats or, where `type` is bf16, as such.
Result<kernels::PackedMatrix> pack_strip(const float* strip, int rows, int k, kernels::Type type, ThreadPool& pool) {
  kernels::RawMatrix raw{.type = type, .rows = rows, .columns = k, .data = reinterpret_cast<const std::byte*>(strip)};
  std::vector<std::byte> narrow;
  if (type == kernels::Type::bf16) {
    const std::size_t row = kernels::row_bytes(type, k);
    narrow.resize(row * static_cast<std::size_t>(rows));
    pool.for_each(rows, [&](int r, int) {
      kernels::quantize_row(type, strip + static_cast<std::ptrdiff_t>(r) * k,
                            narrow.data() + row * static_cast<std::size_t>(r), k);
    });
    raw.data = narrow.data();
  }
  return kernels::pack({&raw, 1}, pool);
}

struct Factors {
  const float* left;  // [left_rows, k]
  int left_rows;
  const float* right;  // [right_rows, k]
  int right_rows, k;
  bool upper;          // only what covers the upper half is wanted
  kernels::Type type;  // f32, or bf16 where all values are that
};

// Calls use(row, column, count, y) with pieces y[count] of left right^T.
template <class Use>
Status multiply(const Factors& f, ThreadPool& pool, Use&& use) {
  kernels::Activations activations;
  std::vector<float> y;
  for (int first = 0; first < f.right_rows; first += kStrip) {
    const int columns = std::min(kStrip, f.right_rows - first);
    const auto packed = TRY(pack_strip(f.right + static_cast<std::ptrdiff_t>(first) * f.k, columns, f.k, f.type, pool));
    const int end = f.upper ? first + columns : f.left_rows;
    for (int row = 0; row < end; row += kStrip) {
      const int rows = std::min(kStrip, end - row);
      activations.assign(f.left + static_cast<std::ptrdiff_t>(row) * f.k, static_cast<std::size_t>(f.k), rows, f.k,
                         packed.forms(), pool);
      y.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
      kernels::matmul(packed, activations, y.data(), static_cast<std::size_t>(columns), pool);
      pool.for_each(
          rows, [&](int r, int) { use(row + r, first, columns, y.data() + static_cast<std::ptrdiff_t>(r) * columns); });
    }
  }
  return {};
}

// The nearest float that bf16 holds. Here, and not kernels::f32_to_bf16(), so that many are made at once.
float as_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const bool number = (bits & 0x7fffffff) <= 0x7f800000;
  return std::bit_cast<float>((number ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000) & 0xffff0000);
}

// `count` rows of x [count, n] become columns [at, at + count) of held [n, kRowsAtOnce], as bf16.
void hold(const float* x, std::size_t ld, int n, int count, float* held, int at, ThreadPool& pool) {
  constexpr int kSide = 16;  // of squares that are turned over: whole lines of the cache on both sides
  pool.for_each((n + kSide - 1) / kSide, [&](int piece, int) {
    const int first = piece * kSide, columns = std::min(kSide, n - first);
    float turned[kSide][kSide];
    for (int row = 0; row < count; row += kSide) {
      const int rows = std::min(kSide, count - row);
      for (int r = 0; r < rows; ++r) {
        const float* from = x + static_cast<std::size_t>(row + r) * ld + static_cast<std::size_t>(first);
        for (int c = 0; c < columns; ++c) turned[c][r] = as_bf16(from[c]);
      }
      for (int c = 0; c < columns; ++c)
        std::copy_n(turned[c], rows, held + static_cast<std::ptrdiff_t>(first + c) * kRowsAtOnce + at + row);
    }
  });
}

// The diagonal block [size, size] at `a`, alone.
bool factor_block(float* a, std::size_t n, int size) {
  for (int i = 0; i < size; ++i) {
    float* row = a + static_cast<std::size_t>(i) * n;
    if (!(row[i] > 0)) return false;
    const float inverse = 1 / std::sqrt(row[i]);
    for (int k = i; k < size; ++k) row[k] *= inverse;
    for (int j = i + 1; j < size; ++j) {
      const float factor = -row[j];
      kernels::kernels().add_rows(row + j, n, &factor, 1, size - j, a + static_cast<std::size_t>(j) * n + j);
    }
  }
  return true;
}

// Columns [begin, end) of the rows beside a factored block.
void solve_beside(const float* block, float* a, std::size_t n, int size, int begin, int end) {
  for (int i = 0; i < size; ++i) {
    float* row = a + static_cast<std::size_t>(i) * n;
    const float inverse = 1 / block[static_cast<std::size_t>(i) * n + static_cast<std::size_t>(i)];
    for (int k = begin; k < end; ++k) row[k] *= inverse;
    for (int j = i + 1; j < size; ++j) {
      const float factor = -block[static_cast<std::size_t>(i) * n + static_cast<std::size_t>(j)];
      kernels::kernels().add_rows(row + begin, n, &factor, 1, end - begin, a + static_cast<std::size_t>(j) * n + begin);
    }
  }
}

}  // namespace

Status cholesky(std::span<float> a, int n, ThreadPool& pool) {
  const auto stride = static_cast<std::size_t>(n);
  std::vector<float> beside;
  for (int first = 0; first < n; first += kStep) {
    const int size = std::min(kStep, n - first), rest = n - first - size;
    float* block = a.data() + static_cast<std::size_t>(first) * (stride + 1);
    if (!factor_block(block, stride, size)) return Error{Code::invalid, "a matrix is not positive definite"};
    if (rest == 0) break;
    constexpr int kColumns = 256;
    pool.for_each((rest + kColumns - 1) / kColumns, [&](int piece, int) {
      solve_beside(block, block + size, stride, size, piece * kColumns, std::min(rest, (piece + 1) * kColumns));
    });
    beside.resize(static_cast<std::size_t>(rest) * static_cast<std::size_t>(size));
    pool.for_each(rest, [&](int c, int) {
      for (int i = 0; i < size; ++i)
        beside[static_cast<std::size_t>(c) * static_cast<std::size_t>(size) + static_cast<std::size_t>(i)] =
            block[static_cast<std::size_t>(i) * stride + static_cast<std::size_t>(size + c)];
    });
    float* corner = block + static_cast<std::size_t>(size) * (stride + 1);
    const Factors factors{beside.data(), rest, beside.data(), rest, size, true, kernels::Type::f32};
    TRY(multiply(factors, pool, [&](int row, int column, int count, const float* y) {
      float* to = corner + static_cast<std::size_t>(row) * stride;
      for (int i = std::max(0, row - column); i < count; ++i) to[column + i] -= y[i];
    }));
  }
  return {};
}

ProductSum::ProductSum(int n) : ProductSum(n, n) { square_ = true; }

ProductSum::ProductSum(int left, int right)
    : left_(left),
      right_(right),
      square_(false),
      sum_(static_cast<std::size_t>(left) * static_cast<std::size_t>(right)) {}

int ProductSum::room() const { return kRowsAtOnce - kept_; }

Status ProductSum::add(const float* x, std::size_t ld, int rows, ThreadPool& pool) {
  CHECK(square_, "a sum of squares");
  held_.resize(static_cast<std::size_t>(left_) * kRowsAtOnce);
  while (rows > 0) {
    const int here = std::min(rows, room());
    hold(x, ld, left_, here, held_.data(), kept_, pool);
    TRY(added(here, pool));
    rows -= here;
    x += static_cast<std::size_t>(here) * ld;
  }
  return {};
}

Status ProductSum::add(const float* x, const float* y, int rows, ThreadPool& pool) {
  CHECK(!square_, "a sum of products of two");
  held_.resize(static_cast<std::size_t>(left_) * kRowsAtOnce);
  beside_.resize(static_cast<std::size_t>(right_) * kRowsAtOnce);
  while (rows > 0) {
    const int here = std::min(rows, room());
    hold(x, static_cast<std::size_t>(left_), left_, here, held_.data(), kept_, pool);
    hold(y, static_cast<std::size_t>(right_), right_, here, beside_.data(), kept_, pool);
    TRY(added(here, pool));
    rows -= here;
    x += static_cast<std::ptrdiff_t>(here) * left_;
    y += static_cast<std::ptrdiff_t>(here) * right_;
  }
  return {};
}

Status ProductSum::added(int rows, ThreadPool& pool) {
  kept_ += rows;
  rows_ += rows;
  return kept_ == kRowsAtOnce ? flush(pool) : Status();
}

Status ProductSum::flush(ThreadPool& pool) {
  const auto clear = [&](std::vector<float>& held) {
    for (std::size_t at = 0; at < held.size() && kept_ < kRowsAtOnce; at += kRowsAtOnce)
      std::fill_n(held.begin() + static_cast<std::ptrdiff_t>(at) + kept_, kRowsAtOnce - kept_, 0.0f);
  };
  clear(held_);
  clear(beside_);
  kept_ = 0;
  const Factors factors{
      held_.data(), left_, square_ ? held_.data() : beside_.data(), right_, kRowsAtOnce, square_, kernels::Type::bf16};
  return multiply(factors, pool, [&](int row, int column, int count, const float* y) {
    float* to = sum_.data() + static_cast<std::ptrdiff_t>(row) * right_ + column;
    for (int i = 0; i < count; ++i) to[i] += y[i];
  });
}

Result<std::vector<float>> ProductSum::mean(ThreadPool& pool) {
  if (kept_ > 0) TRY(flush(pool));
  held_ = {};
  beside_ = {};
  const float factor = rows_ > 0 ? 1 / static_cast<float>(rows_) : 0;
  const auto at = [&](int r, int c) { return static_cast<std::size_t>(static_cast<std::ptrdiff_t>(r) * right_ + c); };
  pool.for_each(left_, [&](int r, int) {
    for (int c = square_ ? r : 0; c < right_; ++c) sum_[at(r, c)] *= factor;
  });
  if (square_)
    pool.for_each(left_, [&](int r, int) {
      for (int c = 0; c < r; ++c) sum_[at(r, c)] = sum_[at(c, r)];
    });
  return std::move(sum_);
}

}  // namespace ashlar::models
