#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>

#include "base/result.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr int kTaskElements = 16 * 1024;  // less is not worth waking a thread for

// fn(row) for all rows, in tasks of some rows.
void for_rows(int rows, int n, ThreadPool& pool, FunctionRef<void(std::size_t)> fn) {
  const int step = std::max(1, kTaskElements / std::max(1, n));
  pool.for_each((rows + step - 1) / step, [&](int task, int) {
    for (int row = task * step; row < std::min(rows, (task + 1) * step); ++row) fn(static_cast<std::size_t>(row));
  });
}

}  // namespace

void rms_norm(const float* x, std::size_t ldx, const float* weight, float epsilon, int rows, int n, float* y,
              std::size_t ldy, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) { kernels().rms_norm(x + r * ldx, weight, epsilon, n, y + r * ldy); });
}

void layer_norm(const float* x, std::size_t ldx, const float* weight, const float* bias, float epsilon, int rows, int n,
                float* y, std::size_t ldy, ThreadPool& pool) {
  for_rows(rows, n, pool,
           [&](std::size_t r) { kernels().layer_norm(x + r * ldx, weight, bias, epsilon, n, y + r * ldy); });
}

void rms_norm_heads(float* x, std::size_t ldx, const float* weight, float epsilon, int rows, int heads, int head_dim,
                    ThreadPool& pool) {
  for_rows(rows, heads * head_dim, pool, [&](std::size_t r) {
    for (int h = 0; h < heads; ++h) {
      float* head = x + r * ldx + static_cast<std::size_t>(h * head_dim);
      kernels().rms_norm(head, weight, epsilon, head_dim, head);
    }
  });
}

void add_rms_norm(float* x, std::size_t ldx, const float* delta, std::size_t ldd, const float* weight, float epsilon,
                  int rows, int n, float* y, std::size_t ldy, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) {
    kernels().add(delta + r * ldd, n, x + r * ldx);
    kernels().rms_norm(x + r * ldx, weight, epsilon, n, y + r * ldy);
  });
}

void add(float* x, std::size_t ldx, const float* delta, std::size_t ldd, int rows, int n, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) { kernels().add(delta + r * ldd, n, x + r * ldx); });
}

void scale(float* x, std::size_t ldx, float factor, int rows, int n, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) {
    for (float& value : std::span(x + r * ldx, static_cast<std::size_t>(n))) value *= factor;
  });
}

void cap(float* x, std::size_t ldx, float bound, int rows, int n, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) {
    // bound * tanh(y) = bound - 2 bound / (e^2y + 1)
    float* row = x + r * ldx;
    for (float& value : std::span(row, static_cast<std::size_t>(n))) value *= 2.0f / bound;
    kernels().exp_scale(row, n, 0.0f, 1.0f, row);
    for (float& value : std::span(row, static_cast<std::size_t>(n))) value = bound - 2.0f * bound / (value + 1.0f);
  });
}

void add_bias(float* x, std::size_t ldx, const float* bias, int rows, int n, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) { kernels().add(bias, n, x + r * ldx); });
}

void silu_mul(const float* gate, const float* up, std::size_t ld, int rows, int n, float* y, std::size_t ldy,
              ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) { kernels().silu_mul(gate + r * ld, up + r * ld, n, y + r * ldy); });
}

void gelu_mul(const float* gate, const float* up, std::size_t ld, int rows, int n, float* y, std::size_t ldy,
              ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) { kernels().gelu_mul(gate + r * ld, up + r * ld, n, y + r * ldy); });
}

void gelu(const float* x, std::size_t ldx, int rows, int n, float* y, std::size_t ldy, ThreadPool& pool) {
  for_rows(rows, n, pool, [&](std::size_t r) { kernels().gelu(x + r * ldx, n, y + r * ldy); });
}

Rope::Rope(int n, double base, RopeLayout layout, std::span<const float> factors, float magnitude)
    : n_(n), layout_(layout), magnitude_(magnitude), frequencies_(static_cast<std::size_t>(n / 2)) {
  CHECK(n > 0 && n % 2 == 0, "rotary embedding turns pairs");
  CHECK(factors.empty() || factors.size() == frequencies_.size(), "one frequency factor for each pair");
  for (std::size_t i = 0; i < frequencies_.size(); ++i)
    frequencies_[i] = std::pow(base, -2.0 * static_cast<double>(i) / n) / (factors.empty() ? 1.0 : factors[i]);
}

void Rope::set_positions(std::span<const int> positions) {
  rows_ = static_cast<int>(positions.size());
  cosine_.resize(positions.size() * frequencies_.size());
  sine_.resize(cosine_.size());
  std::size_t at = 0;
  for (const int position : positions)
    for (const double frequency : frequencies_) {
      cosine_[at] = static_cast<float>(std::cos(position * frequency)) * magnitude_;
      sine_[at++] = static_cast<float>(std::sin(position * frequency)) * magnitude_;
    }
}

void Rope::rotate(float* x, std::size_t ldx, int heads, int head_dim, ThreadPool& pool) const {
  CHECK(head_dim >= n_, "the rotated part is within the head");
  for_rows(rows_, heads * head_dim, pool, [&](std::size_t r) {
    const std::size_t angles = r * frequencies_.size();
    for (int h = 0; h < heads; ++h)
      kernels().rope(cosine_.data() + angles, sine_.data() + angles, n_, layout_ == RopeLayout::halves,
                     x + r * ldx + static_cast<std::size_t>(h * head_dim));
  });
}

float log_sum_exp(std::span<const float> x) {
  float greatest, sum;
  kernels().exp_sum(x.data(), static_cast<int>(x.size()), &greatest, &sum);
  return greatest + std::log(sum);
}

void softmax(std::span<float> x) {
  float greatest, sum;
  kernels().exp_sum(x.data(), static_cast<int>(x.size()), &greatest, &sum);
  kernels().exp_scale(x.data(), static_cast<int>(x.size()), greatest, 1.0f / sum, x.data());
}

}  // namespace ashlar::kernels
