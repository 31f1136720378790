// The reference kernels: plain loops that say what every other row must compute, bit for bit.
#pragma once

#include "kernels/table.h"

namespace ashlar::kernels::ref {

template <Format format>
void matmul(const MatmulJob* job);
void matmul_floats(Format format, const MatmulJob& job);
void matmul_quantized(Format format, const MatmulJob& job);
void narrow_in(const NarrowJob* job);
void narrow_out(const NarrowJob* job);
void narrow8(const Narrow8Job* jobs, int count);
void narrow8_codes(const float* x, int n, int8_t* codes, NarrowScale* scales);
void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel);

void attend(const AttentionJob* job);
void join(const float* partials, int count, int head_dim, float* out);
void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot);
void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot);

void rms_norm(const float* x, const float* weight, float epsilon, int n, float* y);
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int n, float* y);
void add(const float* y, int n, float* x);
void add_rows(const float* rows, size_t ld, const float* factors, int count, int n, float* x);
void rope(const float* cosine, const float* sine, int n, int halves, float* x);
void silu_mul(const float* gate, const float* up, int n, float* y);
void gelu_mul(const float* gate, const float* up, int n, float* y);
void gelu(const float* x, int n, float* y);
void exp_sum(const float* x, int n, float* greatest, float* sum);
void exp_scale(const float* x, int n, float shift, float factor, float* y);

void search(const ScaleSearch* job);
uint64_t read_memory(const uint8_t* data, size_t bytes);
double int8_operations(int64_t rounds);
double float_operations(int64_t rounds);

// e^x with a relative error below 2e-7: 0 below -87, e^88 above 88.
float exponential(float x);

// Sixteen partial sums, added by halves: 16 to 8 to 4 to 2 to 1.
float sum_by_halves(float (&partial)[kLanes]);

extern const Kernels kTable;

}  // namespace ashlar::kernels::ref
