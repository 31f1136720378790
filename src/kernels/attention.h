// Attention over paged keys and values.
#pragma once

#include <cstddef>
#include <span>

#include "base/threads.h"
#include "kernels/table.h"

namespace ashlar::kernels {

enum class KvType { f16 = kKvF16, bf16 = kKvBF16, int8 = kKvInt8 };

// The fastest type on this CPU that keeps two bytes of an element.
KvType natural_kv_type();

// One layer's keys and values. KV head h of block b starts at b * block_bytes + h * head_bytes() from `data`: its
// keys, then its values, 16 positions of each, in the order of the kernels in use (see table.h). Borrowed.
// Fresh blocks may hold anything.
struct KvView {
  std::byte* data = nullptr;
  std::size_t block_bytes = 0;  // from one block to the next: at least kv_heads * head_bytes()
  int kv_heads = 0;
  int head_dim = 0;  // a multiple of 8, at most 256
  KvType type = KvType::f16;

  std::size_t half_bytes() const;  // keys, or values, of one KV head
  std::size_t head_bytes() const { return 2 * half_bytes(); }
};

// Consecutive rows of one sequence.
struct KvSequence {
  int first_row = 0;
  int rows = 0;
  int first_position = 0;       // of its first row
  std::span<const int> blocks;  // block table, covering first_position + rows
};

struct AttentionShape {
  int heads = 0;       // a multiple of the KV heads
  int window = 0;      // a row sees this many positions, its own included; 0: all
  float scale = 0;     // of q, usually 1 / sqrt(head_dim)
  bool whole = false;  // without a window: a row sees all positions of its sequence, those behind it too
  float cap = 0;       // a score s becomes cap * tanh(s / cap) before the softmax (Gemma 2); 0: it stays
  // [heads], or null: the score of something that each row sees besides, which takes weight and has no value (attention
  // sinks, arXiv:2309.17453, as gpt-oss learned them).
  const float* sinks = nullptr;
};

// Writes the keys and values of new rows, k and v [row, kv_heads, head_dim] with rows ldk and ldv
// floats apart, into the blocks of their sequences. f16: values beyond its range are clamped.
void store_kv(const KvView& kv, std::span<const KvSequence> sequences, const float* k, std::size_t ldk, const float* v,
              std::size_t ldv, ThreadPool& pool);

// out[row, head] = softmax(scale * q . K) V over the positions that the row sees; q and out
// [row, heads, head_dim], rows ldq and ldo floats apart. The rows' own keys and values are stored before.
// A row's result depends on its own position and KV alone, bit for bit. Blocks that stand in the tables of several
// sequences at the same place are read once for all of them.
void attention(const KvView& kv, const AttentionShape& shape, std::span<const KvSequence> sequences, const float* q,
               std::size_t ldq, float* out, std::size_t ldo, ThreadPool& pool);

}  // namespace ashlar::kernels
