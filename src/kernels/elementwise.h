// The small steps between matrix products, on f32 rows. Rows are given by their
// first element and the distance `ld` between rows, in floats. Each row's result
// depends on that row alone.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/threads.h"

namespace ashlar::kernels {

// y = x / sqrt(mean(x^2) + epsilon) * weight, for rows of n. y may be x.
void rms_norm(const float* x, std::size_t ldx, const float* weight, float epsilon, int rows, int n, float* y,
              std::size_t ldy, ThreadPool& pool);

// The same for each head of head_dim within a row, in place (the q and k norms of some models).
void rms_norm_heads(float* x, std::size_t ldx, const float* weight, float epsilon, int rows, int heads, int head_dim,
                    ThreadPool& pool);

// y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, for rows of n. y may be x.
void layer_norm(const float* x, std::size_t ldx, const float* weight, const float* bias, float epsilon, int rows, int n,
                float* y, std::size_t ldy, ThreadPool& pool);

// x += delta, then y = rms_norm(x): the residual stream and the next layer's input.
void add_rms_norm(float* x, std::size_t ldx, const float* delta, std::size_t ldd, const float* weight, float epsilon,
                  int rows, int n, float* y, std::size_t ldy, ThreadPool& pool);

// x += delta
void add(float* x, std::size_t ldx, const float* delta, std::size_t ldd, int rows, int n, ThreadPool& pool);

// x *= factor
void scale(float* x, std::size_t ldx, float factor, int rows, int n, ThreadPool& pool);

// x = bound * tanh(x / bound)
void cap(float* x, std::size_t ldx, float bound, int rows, int n, ThreadPool& pool);

// Every row of x += bias[n].
void add_bias(float* x, std::size_t ldx, const float* bias, int rows, int n, ThreadPool& pool);

// y = silu(gate) * up, rows of n.
void silu_mul(const float* gate, const float* up, std::size_t ld, int rows, int n, float* y, std::size_t ldy,
              ThreadPool& pool);

// y = gelu(gate) * up, rows of n; gelu by its approximation with tanh (arXiv:1606.08415).
void gelu_mul(const float* gate, const float* up, std::size_t ld, int rows, int n, float* y, std::size_t ldy,
              ThreadPool& pool);

// y = gelu(x), rows of n, by the error function. y may be x.
void gelu(const float* x, std::size_t ldx, int rows, int n, float* y, std::size_t ldy, ThreadPool& pool);

// How a head's elements pair up for rotation.
enum class RopeLayout {
  adjacent,  // (0, 1), (2, 3), ...: llama as GGUF stores it
  halves,    // (0, n/2), (1, n/2 + 1), ...: "neox", qwen
};

// Rotary position embedding (Su et al., 2021): the angles of one step's rows,
// computed once and used by every layer. One thread at a time.
class Rope {
 public:
  // Rotates the first n elements of each head (even). Pair i turns by
  // position * frequency[i], with frequency[i] = base^(-2i/n) / factors[i]; no factors: 1.
  // `magnitude` multiplies cosine and sine (YaRN).
  Rope(int n, double base, RopeLayout layout, std::span<const float> factors = {}, float magnitude = 1);

  // The positions of the rows to come.
  void set_positions(std::span<const int> positions);

  // Rotates x [rows of set_positions, heads, head_dim] in place.
  void rotate(float* x, std::size_t ldx, int heads, int head_dim, ThreadPool& pool) const;

 private:
  int n_;
  RopeLayout layout_;
  float magnitude_;
  std::vector<double> frequencies_;  // [n/2]
  int rows_ = 0;
  std::vector<float> cosine_, sine_;  // [rows, n/2]
};

// log of the sum of exp(x). x is not empty.
float log_sum_exp(std::span<const float> x);

// x = exp(x) / sum of exp(x), in place. x is not empty.
void softmax(std::span<float> x);

}  // namespace ashlar::kernels
