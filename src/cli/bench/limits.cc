#include "cli/bench/limits.h"

#include <algorithm>

#include "cli/bench/foreign_load.h"
#include "kernels/probe.h"

namespace ashlar::cli {
namespace {

// Multiplications and additions that a model asks for, and the bytes it reads.
struct Needs {
  double row = 0;        // of products, for each row
  double asked_row = 0;  // and for each whose logits are wanted
  double position = 0;   // of attention, for each position that a row sees
  double weight_bytes = 0;
  double position_bytes = 0;  // of one position's keys and values in all layers
};

Needs needs_of(const models::Model& model, models::KvType kv) {
  const models::Shape& s = model.shape();
  const models::Work work = model.work_per_token();
  // After the last layer's attention only asked rows go on.
  const double rest = static_cast<double>(s.width) * (s.heads * s.head_dim + 3.0 * s.hidden + s.vocabulary);
  return {.row = 2 * std::max(0.0, static_cast<double>(work.weights) - rest),
          .asked_row = 2 * rest,
          .position = 4.0 * s.layers * s.heads * s.head_dim,
          .weight_bytes = static_cast<double>(work.bytes.count),
          .position_bytes = static_cast<double>(model.kv_block_bytes(kv).count) / models::kBlockTokens};
}

double arithmetic(const Limits& limits, double products, double attention) {
  return products / limits.products.per_second + attention / limits.attention.per_second;
}

Result<Limits> measure_once(const models::Model& model, ThreadPool& pool) {
  constexpr int kPasses = 5;
  const ForeignLoad load;
  const kernels::Peaks peaks = kernels::compute_peaks(pool);
  const Peak int8{"int8", peaks.int8_tops * 1e12}, f32{"f32", peaks.float_tflops * 1e12};
  const Peak bf16 = peaks.bf16_tflops > 0 ? Peak{"bf16", peaks.bf16_tflops * 1e12} : f32;
  const auto products = model.work_per_token().products;
  Limits limits{.bytes_per_second = TRY(kernels::read_bandwidth(pool, 1536_MiB, kPasses)),
                .products = products == models::Work::Products::int8   ? int8
                            : products == models::Work::Products::bf16 ? bf16
                                                                       : f32,
                .attention = bf16};
  limits.foreign = load.share();
  return limits;
}

}  // namespace

Result<Limits> measure_limits(const models::Model& model, ThreadPool& pool) {
  Limits best = TRY(measure_once(model, pool));
  for (int attempt = 0; attempt < 2 && best.foreign > kDisturbed; ++attempt) {
    Limits limits = TRY(measure_once(model, pool));
    if (limits.foreign < best.foreign) best = std::move(limits);
  }
  return best;
}

Floor prefill_floor(const models::Model& model, const Limits& limits, const Test& test, models::KvType kv, int chunk) {
  const Needs needs = needs_of(model, kv);
  const int rows = test.prefilled(), sequences = test.shared > 0 ? 1 : test.batch;
  const models::Seen seen = models::positions_seen(model.shape().sliding_window, test.depth, rows / sequences);
  const double passes = (rows + chunk - 1) / chunk;
  return {.memory_seconds =
              (passes * needs.weight_bytes + sequences * needs.position_bytes * static_cast<double>(seen.together)) /
              limits.bytes_per_second,
          .arithmetic_seconds = arithmetic(limits, needs.row * rows + needs.asked_row * sequences,
                                           needs.position * sequences * static_cast<double>(seen.sum))};
}

Floor decode_floor(const models::Model& model, const Limits& limits, const Test& test, models::KvType kv) {
  const Needs needs = needs_of(model, kv);
  const int start = test.depth + test.shared + test.prompt;
  const auto seen = static_cast<double>(models::positions_seen(model.shape().sliding_window, start, test.generate).sum);
  // Without a window, which lets go of the prefix, each step reads the shared part once.
  const bool shares = test.shared > 0 && model.shape().sliding_window == 0;
  const double spared = shares ? static_cast<double>(test.batch - 1) * test.shared * test.generate : 0;
  return {.memory_seconds = (test.generate * needs.weight_bytes + needs.position_bytes * (test.batch * seen - spared)) /
                            limits.bytes_per_second,
          .arithmetic_seconds =
              arithmetic(limits, (needs.row + needs.asked_row) * test.decoded(), needs.position * test.batch * seen)};
}

}  // namespace ashlar::cli
