#pragma STDC FP_CONTRACT OFF
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {

// Cody-Waite reduction by ln 2 and the polynomial of Cephes expf; the power of two is added to the exponent.
float exponential(float x) {
  if (!(x > -87.0f)) return 0;
  x = x < 88.0f ? x : 88.0f;
  const float n = std::nearbyint(x * 1.44269504f);
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  const float y = std::fma(p, r * r, r) + 1.0f;
  return std::bit_cast<float>(std::bit_cast<int32_t>(y) + (static_cast<int32_t>(n) << 23));
}

float sum_by_halves(float (&partial)[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) partial[i] += partial[i + half];
  return partial[0];
}

void rms_norm(const float* x, const float* weight, float epsilon, int n, float* y) {
  float partial[kLanes] = {};
  for (int i = 0; i < n; ++i) partial[i % kLanes] = std::fma(x[i], x[i], partial[i % kLanes]);
  const float factor = 1.0f / std::sqrt(sum_by_halves(partial) / static_cast<float>(n) + epsilon);
  for (int i = 0; i < n; ++i) y[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int n, float* y) {
  float sums[kLanes] = {}, squares[kLanes] = {};
  for (int i = 0; i < n; ++i) sums[i % kLanes] += x[i];
  const float mean = sum_by_halves(sums) / static_cast<float>(n);
  for (int i = 0; i < n; ++i) squares[i % kLanes] = std::fma(x[i] - mean, x[i] - mean, squares[i % kLanes]);
  const float factor = 1.0f / std::sqrt(sum_by_halves(squares) / static_cast<float>(n) + epsilon);
  for (int i = 0; i < n; ++i) y[i] = std::fma((x[i] - mean) * factor, weight[i], bias[i]);
}

void add(const float* y, int n, float* x) {
  for (int i = 0; i < n; ++i) x[i] += y[i];
}

void add_rows(const float* rows, size_t ld, const float* factors, int count, int n, float* x) {
  for (int r = 0; r < count; ++r, rows += ld)
    for (int i = 0; i < n; ++i) x[i] += rows[i] * factors[r];
}

void rope(const float* cosine, const float* sine, int n, int halves, float* x) {
  for (int i = 0; i < n / 2; ++i) {
    float& a = halves != 0 ? x[i] : x[2 * i];
    float& b = halves != 0 ? x[i + n / 2] : x[2 * i + 1];
    const float u = a, v = b;
    a = std::fma(u, cosine[i], -(v * sine[i]));
    b = std::fma(u, sine[i], v * cosine[i]);
  }
}

void silu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

void gelu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; ++i) {
    const float inner = gate[i] * std::fma(gate[i] * gate[i], kGeluB, kGeluA);
    y[i] = gate[i] / (1.0f + exponential(-inner)) * up[i];
  }
}

void gelu(const float* x, int n, float* y) {
  for (int i = 0; i < n; ++i) {
    const float z = std::fabs(x[i]) * kRootHalf, t = 1.0f / std::fma(z, kErfP, 1.0f);
    float p = std::fma(kErf5, t, kErf4);
    p = std::fma(p, t, kErf3);
    p = std::fma(p, t, kErf2);
    p = std::fma(p, t, kErf1);
    const float tail = 0.5f * t * p * exponential(-(z * z));  // the share of the normal distribution beyond |x|
    y[i] = x[i] >= 0.0f ? std::fma(-x[i], tail, x[i]) : x[i] * tail;
  }
}

void exp_sum(const float* x, int n, float* greatest, float* sum) {
  float most = x[0];
  for (int i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  float partial[kLanes] = {};
  for (int i = 0; i < n; ++i) partial[i % kLanes] += exponential(x[i] - most);
  *greatest = most;
  *sum = sum_by_halves(partial);
}

void exp_scale(const float* x, int n, float shift, float factor, float* y) {
  for (int i = 0; i < n; ++i) y[i] = exponential(x[i] - shift) * factor;
}

}  // namespace ashlar::kernels::ref
