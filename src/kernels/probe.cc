#include "kernels/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/matrix.h"

namespace ashlar::kernels {
namespace {

double seconds(FunctionRef<void()> fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best rate of some tries, each of about 5 ms on every thread.
double best_rate(ThreadPool& pool, double (*operations)(std::int64_t)) {
  std::int64_t rounds = 1000;
  while (seconds([&] { operations(rounds); }) < 0.001) rounds *= 2;
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    std::atomic<double> done = 0;
    const double time =
        seconds([&] { pool.for_each(pool.size(), [&](int, int) { done.fetch_add(operations(rounds * 5)); }); });
    best = std::max(best, done.load() / time);
  }
  return best;
}

}  // namespace

Result<double> read_bandwidth(ThreadPool& pool, Bytes size, int passes) {
  const HugeMemory memory = TRY(HugeMemory::allocate(size.count));
  constexpr std::size_t kPiece = 1u << 20;
  const int pieces = static_cast<int>(memory.bytes() / kPiece);
  const auto* data = reinterpret_cast<const std::uint8_t*>(memory.data());
  pool.for_each(pieces,
                [&](int i, int) { std::memset(memory.data() + static_cast<std::size_t>(i) * kPiece, 1, kPiece); });
  std::atomic<std::uint64_t> sum = 0;
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const double time = seconds([&] {
      pool.for_each(pieces, [&](int i, int) {
        sum.fetch_add(kernels().read_memory(data + static_cast<std::size_t>(i) * kPiece, kPiece));
      });
    });
    best = std::max(best, static_cast<double>(kPiece) * pieces / time);
  }
  return best;
}

Peaks compute_peaks(ThreadPool& pool) {
  const auto bf16 = kernels().bf16_operations;
  return {.int8_tops = best_rate(pool, kernels().int8_operations) / 1e12,
          .bf16_tflops = bf16 != nullptr ? best_rate(pool, bf16) / 1e12 : 0,
          .float_tflops = best_rate(pool, kernels().float_operations) / 1e12};
}

}  // namespace ashlar::kernels
