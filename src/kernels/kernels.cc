#include "kernels/kernels.h"

#include <atomic>
#include <string>
#include <vector>

#include <fmt/format.h>
#include "kernels/blocks.h"
#include "kernels/ref/ref.h"
#include "kernels/x86/rows.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ashlar::kernels {
namespace {

#if defined(__x86_64__)
struct Cpuid {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Cpuid cpuid(unsigned leaf, unsigned subleaf = 0) {
  Cpuid r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

bool bit(unsigned word, int index) { return (word >> index & 1) != 0; }

struct Cpu {
  bool avx2 = false;
  bool avx512 = false;  // F BW VL DQ CD VNNI, as the files are compiled
  bool amx = false;     // tiles of int8 and bf16, and AVX512-FP16 and -BF16 beside them
};

// Linux gives the tile registers to processes that ask (from 5.16 on).
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// What the CPU has and the operating system saves on a task switch (XCR0).
Cpu look() {
  const Cpuid one = cpuid(1);
  if (!bit(one.c, 27)) return {};  // OSXSAVE: XGETBV may be asked
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const Cpuid seven = cpuid(7);
  const bool ymm = (low & 0x6) == 0x6, zmm = (low & 0xe6) == 0xe6;
  Cpu cpu;
  cpu.avx2 = ymm && bit(one.c, 28) && bit(one.c, 12) && bit(one.c, 29) && bit(seven.b, 5) && bit(seven.b, 8);
  cpu.avx512 = cpu.avx2 && zmm && bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 28) && bit(seven.b, 30) &&
               bit(seven.b, 31) && bit(seven.c, 11);
  cpu.amx = cpu.avx512 && (low & 0x60000) == 0x60000 && bit(seven.d, 22) && bit(seven.d, 23) && bit(seven.d, 24) &&
            bit(seven.d, 25) && bit(cpuid(7, 1).a, 5) && may_use_tiles();
  return cpu;
}
#endif

#if defined(__x86_64__)
// What AMX does itself, and AVX-512 for the rest.
const Kernels& amx_row() {
  static const Kernels row = [] {
    Kernels kernels = kAvx512;
    kernels.isa = "amx";
    kernels.tile_matmul[kF16] = amx::matmul_f16;
    kernels.tile_matmul[kBF16] = amx::matmul_bf16;
    kernels.tile_matmul[kQ8_0] = amx::matmul_q8_0;
    kernels.tile_matmul[kQ4_0] = amx::matmul_q4_0;
    kernels.tile_matmul[kQ4_1] = amx::matmul_q4_1;
    kernels.tile_matmul[kQ5_0] = amx::matmul_q5_0;
    kernels.tile_matmul[kQ5_1] = amx::matmul_q5_1;
    kernels.tile_matmul[kQ2_K] = amx::matmul_q2_k;
    kernels.tile_matmul[kQ3_K] = amx::matmul_q3_k;
    kernels.tile_matmul[kQ4_K] = amx::matmul_q4_k;
    kernels.tile_matmul[kQ5_K] = amx::matmul_q5_k;
    kernels.tile_matmul[kQ6_K] = amx::matmul_q6_k;
    kernels.tile_matmul[kIQ4_NL] = amx::matmul_iq4_nl;
    kernels.tile_matmul[kIQ4_XS] = amx::matmul_iq4_xs;
    kernels.tile_matmul[kU4Z] = amx::matmul_u4z;
    kernels.tile_matmul[kU8Z] = amx::matmul_u8z;
    kernels.tile_matmul[kI8] = amx::matmul_i8;
    kernels.tile_matmul[kNF4] = amx::matmul_nf4;
    kernels.tile_matmul[kMXFP4] = amx::matmul_mxfp4;
    kernels.narrow8 = amx::narrow8;
    kernels.int8_panel = amx::int8_panel;
    kernels.bf16_panel = amx::bf16_panel;
    kernels.int8_operations = amx::int8_operations;
    kernels.bf16_operations = amx::bf16_operations;
    kernels.attend = amx::attend;
    kernels.peak_unit = 1.44269504f;
    kernels.join = amx::join;
    kernels.store_key = amx::store_key;
    kernels.store_value = amx::store_value;
    kernels.natural_kv = kKvBF16;
    return kernels;
  }();
  return row;
}
#endif

std::vector<const Kernels*> find_rows() {
  std::vector<const Kernels*> rows{&ref::kTable};
#if defined(__x86_64__)
  const Cpu cpu = look();
  if (cpu.avx2) rows.push_back(&kAvx2);
  if (cpu.avx512) rows.push_back(&kAvx512);
  if (cpu.amx) rows.push_back(&amx_row());
#endif
  return rows;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

std::span<const Kernels* const> kernel_rows() {
  static const std::vector<const Kernels*> rows = find_rows();
  return rows;
}

const Kernels& kernels() {
  const Kernels* row = chosen.load(std::memory_order_relaxed);
  if (row == nullptr) {
    row = kernel_rows().back();
    chosen.store(row, std::memory_order_relaxed);
  }
  return *row;
}

bool reads_tiles(Type type, int columns) {
  const bool narrow = type_info(type).block > 1 && columns <= kNarrowColumns;
  return kernels().tile_matmul[format_of(type)] != nullptr && !narrow;
}

Status select_isa(std::string_view isa) {
  std::string known;
  for (const Kernels* row : kernel_rows()) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row->isa);
    if (isa == row->isa || (isa == "auto" && row == kernel_rows().back())) {
      chosen.store(row, std::memory_order_relaxed);
      return {};
    }
  }
  return Error{Code::unsupported, fmt::format("this CPU has no kernels '{}'; it has auto, {}", isa, known)};
}

}  // namespace ashlar::kernels
