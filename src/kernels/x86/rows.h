// The rows of the kernel table for x86-64. Plain C only: see STYLE.md on kernels.
#pragma once

#include "kernels/table.h"

namespace ashlar::kernels {

extern const Kernels kAvx2;
extern const Kernels kAvx512;

namespace avx2 {

void matmul_f32(const MatmulJob* job);
void matmul_f16(const MatmulJob* job);
void matmul_bf16(const MatmulJob* job);
void matmul_q8_0(const MatmulJob* job);
void matmul_q4_0(const MatmulJob* job);
void matmul_q4_1(const MatmulJob* job);
void matmul_q5_0(const MatmulJob* job);
void matmul_q5_1(const MatmulJob* job);
void matmul_q2_k(const MatmulJob* job);
void matmul_q3_k(const MatmulJob* job);
void matmul_q4_k(const MatmulJob* job);
void matmul_q5_k(const MatmulJob* job);
void matmul_q6_k(const MatmulJob* job);
void matmul_iq4_nl(const MatmulJob* job);
void matmul_iq4_xs(const MatmulJob* job);
void matmul_u4z(const MatmulJob* job);
void matmul_u8z(const MatmulJob* job);
void matmul_i8(const MatmulJob* job);
void matmul_nf4(const MatmulJob* job);
void matmul_mxfp4(const MatmulJob* job);
void narrow_in(const NarrowJob* job);
void narrow_out(const NarrowJob* job);
void narrow8(const Narrow8Job* jobs, int count);
void narrow8_codes(const float* x, int n, int8_t* codes, NarrowScale* scales);
void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel);
void attend(const AttentionJob* job);
void join(const float* partials, int count, int head_dim, float* out);
void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot);
void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot);
void search(const ScaleSearch* job);

}  // namespace avx2

namespace avx512 {

void matmul_f32(const MatmulJob* job);
void matmul_f16(const MatmulJob* job);
void matmul_bf16(const MatmulJob* job);
void matmul_q8_0(const MatmulJob* job);
void matmul_q4_0(const MatmulJob* job);
void matmul_q4_1(const MatmulJob* job);
void matmul_q5_0(const MatmulJob* job);
void matmul_q5_1(const MatmulJob* job);
void matmul_q2_k(const MatmulJob* job);
void matmul_q3_k(const MatmulJob* job);
void matmul_q4_k(const MatmulJob* job);
void matmul_q5_k(const MatmulJob* job);
void matmul_q6_k(const MatmulJob* job);
void matmul_iq4_nl(const MatmulJob* job);
void matmul_iq4_xs(const MatmulJob* job);
void matmul_u4z(const MatmulJob* job);
void matmul_u8z(const MatmulJob* job);
void matmul_i8(const MatmulJob* job);
void matmul_nf4(const MatmulJob* job);
void matmul_mxfp4(const MatmulJob* job);
void narrow_in(const NarrowJob* job);
void narrow_out(const NarrowJob* job);
void narrow8(const Narrow8Job* jobs, int count);
void narrow8_codes(const float* x, int n, int8_t* codes, NarrowScale* scales);
void quantize_panel(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel);
void attend(const AttentionJob* job);
void join(const float* partials, int count, int head_dim, float* out);
void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot);
void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot);
void search(const ScaleSearch* job);

}  // namespace avx512

namespace amx {

void matmul_f16(const MatmulJob* job);
void matmul_bf16(const MatmulJob* job);
void matmul_q8_0(const MatmulJob* job);
void matmul_q4_0(const MatmulJob* job);
void matmul_q4_1(const MatmulJob* job);
void matmul_q5_0(const MatmulJob* job);
void matmul_q5_1(const MatmulJob* job);
void matmul_q2_k(const MatmulJob* job);
void matmul_q3_k(const MatmulJob* job);
void matmul_q4_k(const MatmulJob* job);
void matmul_q5_k(const MatmulJob* job);
void matmul_q6_k(const MatmulJob* job);
void matmul_iq4_nl(const MatmulJob* job);
void matmul_iq4_xs(const MatmulJob* job);
void matmul_u4z(const MatmulJob* job);
void matmul_u8z(const MatmulJob* job);
void matmul_i8(const MatmulJob* job);
void matmul_nf4(const MatmulJob* job);
void matmul_mxfp4(const MatmulJob* job);
void int8_panel(const float* x, size_t ldx, int rows, int columns, int lines, uint8_t* panel);
void bf16_panel(const float* x, size_t ldx, int rows, int columns, uint8_t* panel);
void narrow8(const Narrow8Job* jobs, int count);
double int8_operations(int64_t rounds);
double bf16_operations(int64_t rounds);
void attend(const AttentionJob* job);
void join(const float* partials, int count, int head_dim, float* out);
void store_key(const float* key, int head_dim, int format, uint8_t* keys, int slot);
void store_value(const float* value, int head_dim, int format, uint8_t* values, int slot);

}  // namespace amx
}  // namespace ashlar::kernels
