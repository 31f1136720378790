// Element-wise steps, probes, and the AVX-512 row of the table.
#include <immintrin.h>

#include "kernels/x86/avx512_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels {
namespace avx512 {
namespace {

ASHLAR_INLINE __mmask16 lanes_of(int left) { return left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1); }

void rms_norm(const float* x, const float* weight, float epsilon, int n, float* y) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(lanes_of(n - i), x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const float mean = sum_by_halves(squares) / (float)n + epsilon;
  const __m512 factor = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean))));
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), factor);
    _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i)));
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int n, float* y) {
  __m512 sums = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(lanes_of(n - i), x + i));
  const __m512 mean = _mm512_set1_ps(sum_by_halves(sums) / (float)n);
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 v = _mm512_maskz_sub_ps(lanes, _mm512_maskz_loadu_ps(lanes, x + i), mean);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const float variance = sum_by_halves(squares) / (float)n + epsilon;
  const __m512 factor = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance))));
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), mean), factor);
    _mm512_mask_storeu_ps(
        y + i, lanes,
        _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i), _mm512_maskz_loadu_ps(lanes, bias + i)));
  }
}

void add(const float* y, int n, float* x) {
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, x + i), _mm512_maskz_loadu_ps(lanes, y + i));
    _mm512_mask_storeu_ps(x + i, lanes, sum);
  }
}

// V vectors of x.
template <int V>
static void add_rows_here(const float* rows, size_t ld, const float* factors, int count, int n, float* x) {
  __m512 sums[V];
  ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[v] = _mm512_maskz_loadu_ps(lanes_of(n - 16 * v), x + 16 * v);
  for (int r = 0; r < count; ++r, rows += ld) {
    const __m512 factor = _mm512_set1_ps(factors[r]);
    ASHLAR_UNROLL for (int v = 0; v < V; ++v) {
      const __m512 row = V > 1 ? _mm512_loadu_ps(rows + 16 * v) : _mm512_maskz_loadu_ps(lanes_of(n), rows);
      sums[v] = _mm512_add_ps(sums[v], _mm512_mul_ps(row, factor));
    }
  }
  ASHLAR_UNROLL for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(x + 16 * v, lanes_of(n - 16 * v), sums[v]);
}

void add_rows(const float* rows, size_t ld, const float* factors, int count, int n, float* x) {
  int i = 0;
  for (; i + 128 <= n; i += 128) add_rows_here<8>(rows + i, ld, factors, count, n - i, x + i);
  for (; i + 32 <= n; i += 32) add_rows_here<2>(rows + i, ld, factors, count, n - i, x + i);
  for (; i < n; i += 16) add_rows_here<1>(rows + i, ld, factors, count, n - i, x + i);
}

void rope(const float* cosine, const float* sine, int n, int halves, float* x) {
  const int half = n / 2;
  if (halves) {
    for (int i = 0; i < half; i += 16) {
      const __mmask16 lanes = lanes_of(half - i);
      const __m512 c = _mm512_maskz_loadu_ps(lanes, cosine + i), s = _mm512_maskz_loadu_ps(lanes, sine + i);
      const __m512 u = _mm512_maskz_loadu_ps(lanes, x + i), v = _mm512_maskz_loadu_ps(lanes, x + half + i);
      _mm512_mask_storeu_ps(x + i, lanes, _mm512_fmsub_ps(u, c, _mm512_mul_ps(v, s)));
      _mm512_mask_storeu_ps(x + half + i, lanes, _mm512_fmadd_ps(u, s, _mm512_mul_ps(v, c)));
    }
    return;
  }
  // Pairs side by side: x c -+ swapped(x) s, the angles doubled up.
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i), angles = (__mmask16)(lanes_of(half - i / 2) & 0xff);
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(angles, cosine + i / 2));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(angles, sine + i / 2));
    const __m512 v = _mm512_maskz_loadu_ps(lanes, x + i), swapped = _mm512_permute_ps(v, 0xb1);
    // Even lanes: v c - (swapped s). Odd lanes: swapped s + (v c), the first product fused as in ref.
    const __m512 even = _mm512_fmsub_ps(v, c, _mm512_mul_ps(swapped, s));
    const __m512 odd = _mm512_fmadd_ps(swapped, s, _mm512_mul_ps(v, c));
    _mm512_mask_storeu_ps(x + i, lanes, _mm512_mask_blend_ps(0xaaaa, even, odd));
  }
}

void silu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i), u = _mm512_maskz_loadu_ps(lanes, up + i);
    const __m512 e = exponential(_mm512_xor_ps(g, _mm512_set1_ps(-0.0f)));
    const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
    _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(silu, u));
  }
}

void gelu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i), u = _mm512_maskz_loadu_ps(lanes, up + i);
    const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(g, g), _mm512_set1_ps(kGeluB), _mm512_set1_ps(kGeluA));
    const __m512 e = exponential(_mm512_xor_ps(_mm512_mul_ps(g, slope), _mm512_set1_ps(-0.0f)));
    const __m512 gelu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
    _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(gelu, u));
  }
}

void gelu(const float* x, int n, float* y) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 v = _mm512_maskz_loadu_ps(lanes, x + i);
    const __m512 z = _mm512_mul_ps(_mm512_abs_ps(v), _mm512_set1_ps(kRootHalf));
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(kErfP), one));
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kErf5), t, _mm512_set1_ps(kErf4));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf3));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf2));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(kErf1));
    const __m512 e = exponential(_mm512_xor_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-0.0f)));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), t), p), e);
    const __mmask16 positive = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ);
    _mm512_mask_storeu_ps(y + i, lanes,
                          _mm512_mask_blend_ps(positive, _mm512_mul_ps(v, tail), _mm512_fnmadd_ps(v, tail, v)));
  }
}

void exp_sum(const float* x, int n, float* greatest, float* sum) {
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff());
  __m512 most = nothing;
  for (int i = 0; i < n; i += 16) most = _mm512_max_ps(most, _mm512_mask_loadu_ps(nothing, lanes_of(n - i), x + i));
  *greatest = _mm512_reduce_max_ps(most);
  most = _mm512_set1_ps(*greatest);
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __m512 v = _mm512_mask_loadu_ps(nothing, lanes_of(n - i), x + i);
    total = _mm512_add_ps(total, exponential(_mm512_sub_ps(v, most)));
  }
  *sum = sum_by_halves(total);
}

void exp_scale(const float* x, int n, float shift, float factor, float* y) {
  for (int i = 0; i < n; i += 16) {
    const __mmask16 lanes = lanes_of(n - i);
    const __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), _mm512_set1_ps(shift));
    _mm512_mask_storeu_ps(y + i, lanes, _mm512_mul_ps(exponential(v), _mm512_set1_ps(factor)));
  }
}

// Four streams: one alone does not keep enough lines in flight.
uint64_t read_memory(const uint8_t* data, size_t bytes) {
  __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  const size_t quarter = bytes / 4 / 64 * 64;
  for (size_t i = 0; i < quarter; i += 64)
    ASHLAR_UNROLL for (int s = 0; s < 4; ++s) sums[s] =
        _mm512_xor_si512(sums[s], _mm512_loadu_si512(data + quarter * (size_t)s + i));
  const __m512i all = _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
  uint64_t words[8], sum = 0;
  _mm512_storeu_si512(words, all);
  for (int i = 0; i < 8; ++i) sum ^= words[i];
  return sum;
}

double int8_operations(int64_t rounds) {
  __m512i sums[16];
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  ASHLAR_UNROLL for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t n = 0; n < rounds; ++n) {
    asm volatile("" : "+v"(a), "+v"(b));
    ASHLAR_UNROLL for (int i = 0; i < 16; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
  }
  ASHLAR_UNROLL for (int i = 0; i < 16; ++i) asm volatile("" ::"v"(sums[i]));
  return 16.0 * 128.0 * (double)rounds;
}

double float_operations(int64_t rounds) {
  __m512 sums[16];
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  ASHLAR_UNROLL for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_ps((float)i);
  for (int64_t n = 0; n < rounds; ++n) {
    asm volatile("" : "+v"(a), "+v"(b));
    ASHLAR_UNROLL for (int i = 0; i < 16; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  }
  ASHLAR_UNROLL for (int i = 0; i < 16; ++i) asm volatile("" ::"v"(sums[i]));
  return 16.0 * 32.0 * (double)rounds;
}

}  // namespace
}  // namespace avx512

const Kernels kAvx512 = {
    .isa = "avx512",
    .matmul = {avx512::matmul_f32,  avx512::matmul_f16,    avx512::matmul_bf16,   avx512::matmul_q8_0,
               avx512::matmul_q4_0, avx512::matmul_q4_1,   avx512::matmul_q5_0,   avx512::matmul_q5_1,
               avx512::matmul_q2_k, avx512::matmul_q3_k,   avx512::matmul_q4_k,   avx512::matmul_q5_k,
               avx512::matmul_q6_k, avx512::matmul_iq4_nl, avx512::matmul_iq4_xs, avx512::matmul_u4z,
               avx512::matmul_u8z,  avx512::matmul_i8,     avx512::matmul_nf4,    avx512::matmul_mxfp4},
    .narrow_in = avx512::narrow_in,
    .narrow_out = avx512::narrow_out,
    .narrow8 = avx512::narrow8,
    .narrow8_codes = avx512::narrow8_codes,
    .quantize_panel = avx512::quantize_panel,
    .attend = avx512::attend,
    .join = avx512::join,
    .store_key = avx512::store_key,
    .store_value = avx512::store_value,
    .peak_unit = 1,
    .natural_kv = kKvF16,
    .rms_norm = avx512::rms_norm,
    .layer_norm = avx512::layer_norm,
    .add = avx512::add,
    .add_rows = avx512::add_rows,
    .rope = avx512::rope,
    .silu_mul = avx512::silu_mul,
    .gelu_mul = avx512::gelu_mul,
    .gelu = avx512::gelu,
    .exp_sum = avx512::exp_sum,
    .exp_scale = avx512::exp_scale,
    .search = avx512::search,
    .read_memory = avx512::read_memory,
    .int8_operations = avx512::int8_operations,
    .float_operations = avx512::float_operations,
};

}  // namespace ashlar::kernels
