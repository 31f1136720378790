#include "kernels/attention.h"

#include <algorithm>
#include <limits>

#include "base/result.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

int divide_up(int n, int by) { return (n + by - 1) / by; }

// How the rows of one KV head's group of query heads are cut into jobs.
struct Cut {
  int group;    // query heads of one KV head
  int heads;    // of them in one job
  int pieces;   // jobs that share out the group
  int queries;  // positions in one job

  explicit Cut(int group_) : group(group_) {
    pieces = divide_up(group, kAttentionRows);
    heads = divide_up(group, pieces);
    queries = std::max(1, kAttentionRows / heads);
  }
};

// One job: some heads of a group, some positions of a sequence.
struct Piece {
  int kv_head, first_head, heads;
  int first_query, queries;
};

Piece piece_at(const Cut& cut, const KvView& kv, const KvSequence& sequence, int index) {
  Piece piece;
  piece.kv_head = index % kv.kv_heads;
  index /= kv.kv_heads;
  const int part = index % cut.pieces * cut.heads;
  piece.first_head = piece.kv_head * cut.group + part;
  piece.heads = std::min(cut.heads, cut.group - part);
  piece.first_query = index / cut.pieces * cut.queries;
  piece.queries = std::min(cut.queries, sequence.rows - piece.first_query);
  return piece;
}

struct Rows {
  const float* q;
  std::size_t ldq;
  float* out;
  std::size_t ldo;
};

void run(const KvView& kv, const AttentionShape& shape, const KvSequence& sequence, const Piece& piece,
         const Rows& rows) {
  alignas(64) float scratch[kAttentionScratch];
  AttentionJob job;
  job.rows = piece.heads * piece.queries;
  for (int i = 0; i < job.rows; ++i) {
    const int query = piece.first_query + i / piece.heads;
    const auto row = static_cast<std::size_t>(sequence.first_row + query);
    const auto column = static_cast<std::size_t>((piece.first_head + i % piece.heads) * kv.head_dim);
    job.q[i] = rows.q + row * rows.ldq + column;
    job.out[i] = rows.out + row * rows.ldo + column;
    job.position[i] = sequence.first_position + query;
  }
  const std::size_t head = kv.head_bytes() * static_cast<std::size_t>(piece.kv_head);
  job.head_dim = kv.head_dim;
  job.window = shape.window > 0 ? shape.window : std::numeric_limits<int>::max();
  job.scale = shape.scale;
  job.bf16 = kv.type == KvType::bf16;
  job.keys = reinterpret_cast<const uint8_t*>(kv.keys) + head;
  job.values = reinterpret_cast<const uint8_t*>(kv.values) + head;
  job.block_bytes = kv.block_bytes;
  job.blocks = sequence.blocks.data();
  job.scratch = scratch;
  kernels().attend(&job);
}

void check(const KvView& kv, std::span<const KvSequence> sequences) {
  CHECK(kv.head_dim % 8 == 0 && kv.head_dim > 0 && kv.head_dim <= kMaxHeadDim, "head_dim is a multiple of 8 up to 256");
  for (const KvSequence& s : sequences)
    CHECK(s.rows >= 0 && s.first_position >= 0 &&
              s.blocks.size() * kKvBlock >= static_cast<std::size_t>(s.first_position + s.rows),
          "a block table covers the rows of its sequence");
}

}  // namespace

void store_kv(const KvView& kv, std::span<const KvSequence> sequences, const float* k, std::size_t ldk, const float* v,
              std::size_t ldv, ThreadPool& pool) {
  check(kv, sequences);
  // A task is one KV block of one sequence: threads do not share its cache lines.
  const auto blocks_of = [](const KvSequence& s) {
    return s.rows == 0 ? 0 : (s.first_position + s.rows - 1) / kKvBlock - s.first_position / kKvBlock + 1;
  };
  int tasks = 0;
  for (const KvSequence& s : sequences) tasks += blocks_of(s);
  pool.for_each(tasks, [&](int task, int) {
    std::size_t which = 0;
    while (task >= blocks_of(sequences[which])) task -= blocks_of(sequences[which++]);
    const KvSequence& s = sequences[which];
    const int index = s.first_position / kKvBlock + task;
    const std::size_t block = static_cast<std::size_t>(s.blocks[static_cast<std::size_t>(index)]) * kv.block_bytes;
    const int begin = std::max(s.first_position, index * kKvBlock);
    const int end = std::min(s.first_position + s.rows, (index + 1) * kKvBlock);
    for (int position = begin; position < end; ++position) {
      const auto row = static_cast<std::size_t>(s.first_row + position - s.first_position);
      for (int h = 0; h < kv.kv_heads; ++h) {
        const std::size_t at = block + kv.head_bytes() * static_cast<std::size_t>(h);
        const auto column = static_cast<std::size_t>(h * kv.head_dim);
        kernels().store_key(k + row * ldk + column, kv.head_dim, kv.type == KvType::bf16,
                            reinterpret_cast<uint8_t*>(kv.keys) + at, position % kKvBlock);
        kernels().store_value(v + row * ldv + column, kv.head_dim, kv.type == KvType::bf16,
                              reinterpret_cast<uint8_t*>(kv.values) + at, position % kKvBlock);
      }
    }
  });
}

void attention(const KvView& kv, const AttentionShape& shape, std::span<const KvSequence> sequences, const float* q,
               std::size_t ldq, float* out, std::size_t ldo, ThreadPool& pool) {
  check(kv, sequences);
  CHECK(shape.heads > 0 && shape.heads % kv.kv_heads == 0, "query heads are a multiple of the KV heads");
  const Cut cut(shape.heads / kv.kv_heads);
  const auto jobs_of = [&](const KvSequence& s) { return divide_up(s.rows, cut.queries) * cut.pieces * kv.kv_heads; };
  int jobs = 0;
  for (const KvSequence& s : sequences) jobs += jobs_of(s);
  // The last jobs of a sequence see the most positions: begin with them, so that threads end together.
  pool.for_each(jobs, [&](int index, int) {
    index = jobs - 1 - index;
    std::size_t which = 0;
    while (index >= jobs_of(sequences[which])) index -= jobs_of(sequences[which++]);
    run(kv, shape, sequences[which], piece_at(cut, kv, sequences[which], index), {q, ldq, out, ldo});
  });
}

}  // namespace ashlar::kernels
