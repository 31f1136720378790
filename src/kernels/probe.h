// What this machine can do at best: the limits beside which `ashlar bench` prints its numbers.
#pragma once

#include <cstddef>

#include "base/bytes.h"
#include "base/result.h"
#include "base/threads.h"

namespace ashlar::kernels {

struct Peaks {
  double int8_tops = 0;     // 10^12 int8 multiplies and adds each second, in registers
  double bf16_tflops = 0;   // the same for bf16 with f32 sums; 0: no unit for it
  double float_tflops = 0;  // the same for f32 fused multiply-adds
};

// Bytes per second that the pool reads from memory on large pages: the best of `passes` over `size`, which
// should be well beyond the caches. exhausted: no such memory.
Result<double> read_bandwidth(ThreadPool& pool, Bytes size = 1536_MiB, int passes = 3);

// With the kernels in use, on all threads of the pool; takes some 50 ms.
Peaks compute_peaks(ThreadPool& pool);

}  // namespace ashlar::kernels
