#include <cstring>

#include "kernels/ref/ref.h"

namespace ashlar::kernels::ref {

template <Format format>
void matmul(const MatmulJob* job) {
  format <= kBF16 ? matmul_floats(format, *job) : matmul_quantized(format, *job);
}

uint64_t read_memory(const uint8_t* data, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    sum ^= word;
  }
  return sum;
}

double int8_operations(int64_t rounds) {
  volatile int8_t x = 3;
  volatile int sum = 0;
  for (int64_t i = 0; i < rounds; ++i) sum = sum + x * x;
  return 2.0 * static_cast<double>(rounds);
}

double float_operations(int64_t rounds) {
  volatile float x = 0.5f, sum = 0;
  for (int64_t i = 0; i < rounds; ++i) sum = sum * x + x;
  return 2.0 * static_cast<double>(rounds);
}

const Kernels kTable = {
    .isa = "ref",
    .matmul = {matmul<kF32>,  matmul<kF16>,  matmul<kBF16>, matmul<kQ8_0>,   matmul<kQ4_0>,
               matmul<kQ4_1>, matmul<kQ5_0>, matmul<kQ5_1>, matmul<kQ2_K>,   matmul<kQ3_K>,
               matmul<kQ4_K>, matmul<kQ5_K>, matmul<kQ6_K>, matmul<kIQ4_NL>, matmul<kIQ4_XS>,
               matmul<kU4Z>,  matmul<kU8Z>,  matmul<kI8>,   matmul<kNF4>,    matmul<kMXFP4>},
    .narrow_in = narrow_in,
    .narrow_out = narrow_out,
    .narrow8 = narrow8,
    .narrow8_codes = narrow8_codes,
    .quantize_panel = quantize_panel,
    .attend = attend,
    .join = join,
    .store_key = store_key,
    .store_value = store_value,
    .peak_unit = 1,
    .natural_kv = kKvF16,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .add_rows = add_rows,
    .rope = rope,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .gelu = gelu,
    .exp_sum = exp_sum,
    .exp_scale = exp_scale,
    .search = search,
    .read_memory = read_memory,
    .int8_operations = int8_operations,
    .float_operations = float_operations,
};

}  // namespace ashlar::kernels::ref
