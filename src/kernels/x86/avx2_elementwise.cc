// Element-wise steps, probes, and the AVX2 row of the table.
#include <immintrin.h>

#include "kernels/x86/avx2_math.h"
#include "kernels/x86/rows.h"

namespace ashlar::kernels {
namespace avx2 {
namespace {

ASHLAR_INLINE __m256 load(const float* p, __m256i lanes) { return _mm256_maskload_ps(p, lanes); }

// Lanes beyond the end as minus infinity.
ASHLAR_INLINE __m256 load_or_nothing(const float* p, __m256i lanes) {
  return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), load(p, lanes), _mm256_castsi256_ps(lanes));
}

void rms_norm(const float* x, const float* weight, float epsilon, int n, float* y) {
  __m256 squares[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int i = 0; i < n; i += 8) {
    const __m256 v = load(x + i, lanes_of(n - i));
    squares[i / 8 % 2] = _mm256_fmadd_ps(v, v, squares[i / 8 % 2]);
  }
  const float mean = sum_by_halves(squares[0], squares[1]) / (float)n + epsilon;
  const __m256 factor = _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean))));
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    _mm256_maskstore_ps(y + i, lanes,
                        _mm256_mul_ps(_mm256_mul_ps(load(x + i, lanes), factor), load(weight + i, lanes)));
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int n, float* y) {
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, squares[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int i = 0; i < n; i += 8) sums[i / 8 % 2] = _mm256_add_ps(sums[i / 8 % 2], load(x + i, lanes_of(n - i)));
  const __m256 mean = _mm256_set1_ps(sum_by_halves(sums[0], sums[1]) / (float)n);
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    const __m256 v = _mm256_and_ps(_mm256_sub_ps(load(x + i, lanes), mean), _mm256_castsi256_ps(lanes));
    squares[i / 8 % 2] = _mm256_fmadd_ps(v, v, squares[i / 8 % 2]);
  }
  const float variance = sum_by_halves(squares[0], squares[1]) / (float)n + epsilon;
  const __m256 factor = _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance))));
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    const __m256 v = _mm256_mul_ps(_mm256_sub_ps(load(x + i, lanes), mean), factor);
    _mm256_maskstore_ps(y + i, lanes, _mm256_fmadd_ps(v, load(weight + i, lanes), load(bias + i, lanes)));
  }
}

void add(const float* y, int n, float* x) {
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    _mm256_maskstore_ps(x + i, lanes, _mm256_add_ps(load(x + i, lanes), load(y + i, lanes)));
  }
}

// V vectors of x.
template <int V>
static void add_rows_here(const float* rows, size_t ld, const float* factors, int count, int n, float* x) {
  __m256 sums[V];
  ASHLAR_UNROLL for (int v = 0; v < V; ++v) sums[v] = load(x + 8 * v, lanes_of(n - 8 * v));
  for (int r = 0; r < count; ++r, rows += ld) {
    const __m256 factor = _mm256_set1_ps(factors[r]);
    ASHLAR_UNROLL for (int v = 0; v < V; ++v) {
      const __m256 row = V > 1 ? _mm256_loadu_ps(rows + 8 * v) : load(rows, lanes_of(n));
      sums[v] = _mm256_add_ps(sums[v], _mm256_mul_ps(row, factor));
    }
  }
  ASHLAR_UNROLL for (int v = 0; v < V; ++v) _mm256_maskstore_ps(x + 8 * v, lanes_of(n - 8 * v), sums[v]);
}

void add_rows(const float* rows, size_t ld, const float* factors, int count, int n, float* x) {
  int i = 0;
  for (; i + 32 <= n; i += 32) add_rows_here<4>(rows + i, ld, factors, count, n - i, x + i);
  for (; i < n; i += 8) add_rows_here<1>(rows + i, ld, factors, count, n - i, x + i);
}

void rope(const float* cosine, const float* sine, int n, int halves, float* x) {
  const int half = n / 2;
  if (halves) {
    for (int i = 0; i < half; i += 8) {
      const __m256i lanes = lanes_of(half - i);
      const __m256 c = load(cosine + i, lanes), s = load(sine + i, lanes);
      const __m256 u = load(x + i, lanes), v = load(x + half + i, lanes);
      _mm256_maskstore_ps(x + i, lanes, _mm256_fmsub_ps(u, c, _mm256_mul_ps(v, s)));
      _mm256_maskstore_ps(x + half + i, lanes, _mm256_fmadd_ps(u, s, _mm256_mul_ps(v, c)));
    }
    return;
  }
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i), angles = lanes_of(half - i / 2);
    const __m128i four = _mm256_castsi256_si128(angles);
    const __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_maskload_ps(cosine + i / 2, four)), twice);
    const __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_maskload_ps(sine + i / 2, four)), twice);
    const __m256 v = load(x + i, lanes), swapped = _mm256_permute_ps(v, 0xb1);
    const __m256 even = _mm256_fmsub_ps(v, c, _mm256_mul_ps(swapped, s));
    const __m256 odd = _mm256_fmadd_ps(swapped, s, _mm256_mul_ps(v, c));
    _mm256_maskstore_ps(x + i, lanes, _mm256_blend_ps(even, odd, 0xaa));
  }
}

void silu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    const __m256 g = load(gate + i, lanes);
    const __m256 e = exponential(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
    const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    _mm256_maskstore_ps(y + i, lanes, _mm256_mul_ps(silu, load(up + i, lanes)));
  }
}

void gelu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    const __m256 g = load(gate + i, lanes);
    const __m256 slope = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(kGeluB), _mm256_set1_ps(kGeluA));
    const __m256 e = exponential(_mm256_xor_ps(_mm256_mul_ps(g, slope), _mm256_set1_ps(-0.0f)));
    const __m256 gelu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    _mm256_maskstore_ps(y + i, lanes, _mm256_mul_ps(gelu, load(up + i, lanes)));
  }
}

void gelu(const float* x, int n, float* y) {
  const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    const __m256 v = load(x + i, lanes);
    const __m256 z = _mm256_mul_ps(_mm256_andnot_ps(sign, v), _mm256_set1_ps(kRootHalf));
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(kErfP), one));
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kErf5), t, _mm256_set1_ps(kErf4));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf3));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf2));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(kErf1));
    const __m256 e = exponential(_mm256_xor_ps(_mm256_mul_ps(z, z), sign));
    const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5f), t), p), e);
    const __m256 positive = _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ);
    _mm256_maskstore_ps(y + i, lanes, _mm256_blendv_ps(_mm256_mul_ps(v, tail), _mm256_fnmadd_ps(v, tail, v), positive));
  }
}

void exp_sum(const float* x, int n, float* greatest, float* sum) {
  __m256 most = _mm256_set1_ps(-__builtin_inff());
  for (int i = 0; i < n; i += 8) most = _mm256_max_ps(most, load_or_nothing(x + i, lanes_of(n - i)));
  *greatest = greatest_of(most);
  most = _mm256_set1_ps(*greatest);
  __m256 totals[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int i = 0; i < n; i += 8) {
    const __m256 e = exponential(_mm256_sub_ps(load_or_nothing(x + i, lanes_of(n - i)), most));
    totals[i / 8 % 2] = _mm256_add_ps(totals[i / 8 % 2], e);
  }
  *sum = sum_by_halves(totals[0], totals[1]);
}

void exp_scale(const float* x, int n, float shift, float factor, float* y) {
  for (int i = 0; i < n; i += 8) {
    const __m256i lanes = lanes_of(n - i);
    const __m256 e = exponential(_mm256_sub_ps(load(x + i, lanes), _mm256_set1_ps(shift)));
    _mm256_maskstore_ps(y + i, lanes, _mm256_mul_ps(e, _mm256_set1_ps(factor)));
  }
}

// Four streams: one alone does not keep enough lines in flight.
uint64_t read_memory(const uint8_t* data, size_t bytes) {
  __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  const size_t quarter = bytes / 4 / 32 * 32;
  for (size_t i = 0; i < quarter; i += 32)
    ASHLAR_UNROLL for (int s = 0; s < 4; ++s) sums[s] =
        _mm256_xor_si256(sums[s], _mm256_loadu_si256((const __m256i*)(data + quarter * (size_t)s + i)));
  uint64_t words[4], sum = 0;
  _mm256_storeu_si256((__m256i*)words,
                      _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3])));
  for (int i = 0; i < 4; ++i) sum ^= words[i];
  return sum;
}

double int8_operations(int64_t rounds) {
  __m256i sums[8];
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  const __m256i ones = _mm256_set1_epi16(1);
  ASHLAR_UNROLL for (int i = 0; i < 8; ++i) sums[i] = _mm256_set1_epi32(i);
  for (int64_t n = 0; n < rounds; ++n) ASHLAR_UNROLL for (int i = 0; i < 8; ++i) {
      asm volatile("" : "+x"(a), "+x"(b));
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  ASHLAR_UNROLL for (int i = 0; i < 8; ++i) asm volatile("" ::"x"(sums[i]));
  return 8.0 * 64.0 * (double)rounds;
}

double float_operations(int64_t rounds) {
  __m256 sums[10];
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  ASHLAR_UNROLL for (int i = 0; i < 10; ++i) sums[i] = _mm256_set1_ps((float)i);
  for (int64_t n = 0; n < rounds; ++n) {
    asm volatile("" : "+x"(a), "+x"(b));
    ASHLAR_UNROLL for (int i = 0; i < 10; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  }
  ASHLAR_UNROLL for (int i = 0; i < 10; ++i) asm volatile("" ::"x"(sums[i]));
  return 10.0 * 16.0 * (double)rounds;
}

}  // namespace
}  // namespace avx2

const Kernels kAvx2 = {
    .isa = "avx2",
    .matmul = {avx2::matmul_f32,  avx2::matmul_f16,  avx2::matmul_bf16, avx2::matmul_q8_0,   avx2::matmul_q4_0,
               avx2::matmul_q4_1, avx2::matmul_q5_0, avx2::matmul_q5_1, avx2::matmul_q2_k,   avx2::matmul_q3_k,
               avx2::matmul_q4_k, avx2::matmul_q5_k, avx2::matmul_q6_k, avx2::matmul_iq4_nl, avx2::matmul_iq4_xs,
               avx2::matmul_u4z,  avx2::matmul_u8z,  avx2::matmul_i8,   avx2::matmul_nf4,    avx2::matmul_mxfp4},
    .narrow_in = avx2::narrow_in,
    .narrow_out = avx2::narrow_out,
    .narrow8 = avx2::narrow8,
    .narrow8_codes = avx2::narrow8_codes,
    .quantize_panel = avx2::quantize_panel,
    .attend = avx2::attend,
    .join = avx2::join,
    .store_key = avx2::store_key,
    .store_value = avx2::store_value,
    .peak_unit = 1,
    .natural_kv = kKvF16,
    .rms_norm = avx2::rms_norm,
    .layer_norm = avx2::layer_norm,
    .add = avx2::add,
    .add_rows = avx2::add_rows,
    .rope = avx2::rope,
    .silu_mul = avx2::silu_mul,
    .gelu_mul = avx2::gelu_mul,
    .gelu = avx2::gelu,
    .exp_sum = avx2::exp_sum,
    .exp_scale = avx2::exp_scale,
    .search = avx2::search,
    .read_memory = avx2::read_memory,
    .int8_operations = avx2::int8_operations,
    .float_operations = avx2::float_operations,
};

}  // namespace ashlar::kernels
