#include "kernels/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

// A sequence of so few rows is spread over splits: with more there are jobs enough.
constexpr int kFewRows = 16;
constexpr int kBlocksPerSplit = kKvSplit / kKvBlock;
// Sequences with fewer equal blocks in a split are better off as jobs of their own.
constexpr int kWorthSharing = 4;

int divide_up(int n, int by) { return (n + by - 1) / by; }
constexpr std::size_t size(int n) { return static_cast<std::size_t>(n); }

// Some positions of a sequence and some query heads of each KV head's group: at most kAttentionRows rows.
struct Piece {
  const KvSequence* sequence;
  int first_head, heads;  // within the group
  int first_query, queries;
  int first_split, splits;  // that its rows see
  bool whole;               // its rows see the positions behind them too
  std::size_t partials;     // where its partial results stand: [kv_heads][rows][slots]
  int slots;                // partial results of a row: one for each split, and one for its sink if there are sinks
  int counter;              // the first of its counters, one for each KV head

  int rows() const { return heads * queries; }
  // The last position that a query sees.
  int last_seen(int query) const {
    return sequence->first_position + (whole ? sequence->rows - 1 : first_query + query);
  }
  int last_position() const { return last_seen(queries - 1); }
};

// Pieces that are computed together for each KV head: one, or some of equal blocks.
struct Task {
  int first, pieces;  // in the order of Plan
  int split, splits;
  int shared;  // they agree on the positions before this one
  bool finish;
};

struct alignas(64) Scratch {
  std::uint8_t bytes[kAttentionScratch];
  float partials[size(kAttentionRows) * 2 * (kMaxHeadDim + kPartialExtra)];  // a row's and its sink's
};

// What is to be done, and the memory for it, kept from call to call by each calling thread.
class Plan {
 public:
  void make(const KvView& kv, const AttentionShape& shape, std::span<const KvSequence> sequences);

  int jobs() const { return static_cast<int>(tasks_.size()) * kv_heads_; }
  // One KV head after the other: what its jobs have in common stays in the caches.
  const Task& task(int job) const { return tasks_[size(job) % tasks_.size()]; }
  int kv_head(int job) const { return static_cast<int>(size(job) / tasks_.size()); }
  std::span<const Piece> pieces(const Task& task) const {
    return std::span(pieces_).subspan(size(task.first), size(task.pieces));
  }
  int group() const { return group_; }
  // Partial results of a row of a piece, the first split's.
  float* partial(const Piece& piece, int kv_head, int row) {
    return partials_.data() + piece.partials +
           (size(kv_head) * size(piece.rows()) + size(row)) * size(piece.slots) * stride_;
  }
  std::size_t stride() const { return stride_; }
  // True for the last of the piece's splits that is done.
  bool last(const Piece& piece, int kv_head) {
    return counters_[size(piece.counter + kv_head)].fetch_sub(1, std::memory_order_acq_rel) == 1;
  }

 private:
  void cut(const KvSequence& sequence, const AttentionShape& shape);
  void join_alike();
  int alike(const Piece& piece, const Piece& other, int split) const;

  int kv_heads_ = 1, group_ = 1;
  std::size_t stride_ = 0;
  std::vector<Piece> pieces_;
  std::vector<Task> tasks_;
  std::vector<float> partials_;
  std::unique_ptr<std::atomic<int>[]> counters_;
  std::size_t counters_room_ = 0;
  std::size_t few_ = 0;  // from this piece on they are spread over splits
};

void Plan::cut(const KvSequence& s, const AttentionShape& shape) {
  const int parts = divide_up(group_, kAttentionRows), heads = divide_up(group_, parts);
  const int queries = std::max(1, kAttentionRows / heads);
  for (int query = 0; query < s.rows; query += queries)
    for (int head = 0; head < group_; head += heads) {
      Piece piece{.sequence = &s,
                  .first_head = head,
                  .heads = std::min(heads, group_ - head),
                  .first_query = query,
                  .queries = std::min(queries, s.rows - query),
                  .whole = shape.whole};
      piece.first_split = shape.window > 0 ? std::max(0, s.first_position + query - shape.window + 1) / kKvSplit : 0;
      piece.splits = piece.last_position() / kKvSplit - piece.first_split + 1;
      piece.slots = piece.splits + (shape.sinks != nullptr ? 1 : 0);
      pieces_.push_back(piece);
    }
}

void Plan::make(const KvView& kv, const AttentionShape& shape, std::span<const KvSequence> sequences) {
  kv_heads_ = kv.kv_heads;
  group_ = shape.heads / kv.kv_heads;
  stride_ = size(kv.head_dim + kPartialExtra);
  pieces_.clear();
  tasks_.clear();
  const auto few = [&](const KvSequence& s) { return s.rows <= kFewRows; };
  for (const KvSequence& s : sequences)
    if (!few(s)) cut(s, shape);
  few_ = pieces_.size();
  for (const KvSequence& s : sequences)
    if (few(s)) cut(s, shape);
  // The last pieces of a sequence see the most positions: begin with them, so that threads end together.
  for (std::size_t i = few_; i-- > 0;)
    tasks_.push_back({.first = static_cast<int>(i),
                      .pieces = 1,
                      .split = pieces_[i].first_split,
                      .splits = pieces_[i].splits,
                      .finish = true});
  join_alike();
}

// How many positions of the split, from its beginning, lie in the same blocks for both, and are written: whole blocks.
int Plan::alike(const Piece& piece, const Piece& other, int split) const {
  const auto in_split = [&](const Piece& p) {
    const auto blocks = p.sequence->blocks.subspan(size(split * kBlocksPerSplit));
    return blocks.first(std::min(blocks.size(), size(kBlocksPerSplit)));
  };
  const auto a = in_split(piece), b = in_split(other);
  const int equal = static_cast<int>(std::ranges::mismatch(a, b).in1 - a.begin());
  const int written = std::min(piece.last_position(), other.last_position()) / kKvBlock - split * kBlocksPerSplit;
  return std::min(equal, written) * kKvBlock;
}

void Plan::join_alike() {
  const auto few = std::span(pieces_).subspan(few_);
  if (few.empty()) return;
  // Sequences with a common prefix come to stand together, the longest prefix nearest.
  const auto before = [](const Piece& a, const Piece& b) {
    const auto &x = a.sequence->blocks, &y = b.sequence->blocks;
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); i += kBlocksPerSplit)
      if (x[i] != y[i]) return x[i] < y[i];
    return std::tuple(a.sequence->first_row, a.first_query, a.first_head) <
           std::tuple(b.sequence->first_row, b.first_query, b.first_head);
  };
  std::ranges::sort(few, before);
  std::size_t partials = 0;
  int counters = 0, splits = 0;
  for (Piece& piece : few) {
    piece.partials = partials;
    piece.counter = counters;
    partials += size(kv_heads_) * size(piece.rows()) * size(piece.slots) * stride_;
    counters += kv_heads_;
    splits = std::max(splits, piece.first_split + piece.splits);
  }
  if (partials_.size() < partials) partials_.resize(partials);
  if (counters_room_ < size(counters)) {
    counters_ = std::make_unique<std::atomic<int>[]>(size(counters));
    counters_room_ = size(counters);
  }
  for (const Piece& piece : few)
    for (int h = 0; h < kv_heads_; ++h)
      counters_[size(piece.counter + h)].store(piece.splits, std::memory_order_relaxed);

  for (int split = 0; split < splits; ++split) {
    const auto sees = [&](const Piece& p) { return split >= p.first_split && split < p.first_split + p.splits; };
    for (std::size_t i = few_; i < pieces_.size();) {
      if (!sees(pieces_[i])) {
        ++i;
        continue;
      }
      const Piece& leader = pieces_[i];
      Task task{.first = static_cast<int>(i),
                .pieces = 1,
                .split = split,
                .splits = 1,
                .shared = std::numeric_limits<int>::max()};
      int rows = leader.rows();
      for (++i; i < pieces_.size() && sees(pieces_[i]); ++i) {
        const int shared = alike(leader, pieces_[i], split);
        if (shared < kWorthSharing * kKvBlock || rows + pieces_[i].rows() > kAttentionRows) break;
        rows += pieces_[i].rows();
        ++task.pieces;
        task.shared = std::min(task.shared, split * kKvSplit + shared);
      }
      task.finish = task.pieces == 1 && leader.splits == 1;
      if (task.pieces == 1) task.shared = 0;
      tasks_.push_back(task);
    }
  }
}

struct Rows {
  const float* q;
  std::size_t ldq;
  float* out;
  std::size_t ldo;
};

int head_of(const Plan& plan, const Piece& piece, int kv_head, int i) {
  return kv_head * plan.group() + piece.first_head + i % piece.heads;
}

// Where row i of a piece stands in q or out.
std::size_t place(const Plan& plan, const Piece& piece, int kv_head, int i, int head_dim, std::size_t ld) {
  const int row = piece.sequence->first_row + piece.first_query + i / piece.heads;
  return size(row) * ld + size(head_of(plan, piece, kv_head, i)) * size(head_dim);
}

// Joins row i's partial results, `count` of them and room for one more, with its head's sink if there are sinks: that
// is a partial result without values.
void join(const KvView& kv, const AttentionShape& shape, const Plan& plan, const Piece& piece, int kv_head, int i,
          float* partials, int count, const Rows& rows) {
  if (shape.sinks != nullptr) {
    float* sink = partials + size(count++) * plan.stride();
    std::fill_n(sink, kv.head_dim, 0.0f);
    const float unit = kernels().peak_unit, score = shape.sinks[head_of(plan, piece, kv_head, i)] * unit;
    const float peak = unit == 1 ? score : std::ceil(score);
    sink[kv.head_dim] = peak;
    sink[kv.head_dim + 1] = std::exp((score - peak) / unit);
  }
  kernels().join(partials, count, kv.head_dim, rows.out + place(plan, piece, kv_head, i, kv.head_dim, rows.ldo));
}

void run(const KvView& kv, const AttentionShape& shape, Plan& plan, int index, const Rows& rows) {
  thread_local const std::unique_ptr<Scratch> scratch = std::make_unique_for_overwrite<Scratch>();
  const Task& task = plan.task(index);
  const int kv_head = plan.kv_head(index);
  const bool finish = task.finish && shape.sinks == nullptr;
  AttentionJob job;
  job.rows = 0;
  for (const Piece& piece : plan.pieces(task))
    for (int i = 0; i < piece.rows(); ++i, ++job.rows) {
      job.q[job.rows] = rows.q + place(plan, piece, kv_head, i, kv.head_dim, rows.ldq);
      job.out[job.rows] = finish ? rows.out + place(plan, piece, kv_head, i, kv.head_dim, rows.ldo)
                          : task.finish
                              ? scratch->partials + size(job.rows) * 2 * plan.stride()
                              : plan.partial(piece, kv_head, i) + size(task.split - piece.first_split) * plan.stride();
      job.position[job.rows] = piece.last_seen(i / piece.heads);
      job.blocks[job.rows] = piece.sequence->blocks.data();
    }
  job.begin = task.split * kKvSplit;
  job.end = (task.split + task.splits) * kKvSplit;
  job.shared = task.shared;
  job.finish = finish;
  job.head_dim = kv.head_dim;
  job.window = shape.window > 0 ? shape.window : std::numeric_limits<int>::max();
  job.scale = shape.scale;
  job.cap = shape.cap;
  job.format = static_cast<int>(kv.type);
  job.keys = reinterpret_cast<const std::uint8_t*>(kv.data) + kv.head_bytes() * size(kv_head);
  job.values = job.keys + kv.half_bytes();
  job.block_bytes = kv.block_bytes;
  job.scratch = scratch->bytes;
  kernels().attend(&job);
  if (finish) return;
  for (const Piece& piece : plan.pieces(task)) {
    if (!task.finish && !plan.last(piece, kv_head)) continue;
    for (int i = 0; i < piece.rows(); ++i)
      if (task.finish)  // one piece
        join(kv, shape, plan, piece, kv_head, i, job.out[i], 1, rows);
      else
        join(kv, shape, plan, piece, kv_head, i, plan.partial(piece, kv_head, i), piece.splits, rows);
  }
}

void check(const KvView& kv, std::span<const KvSequence> sequences) {
  CHECK(kv.head_dim % 8 == 0 && kv.head_dim > 0 && kv.head_dim <= kMaxHeadDim, "head_dim is a multiple of 8 up to 256");
  for (const KvSequence& s : sequences)
    CHECK(s.rows >= 0 && s.first_position >= 0 && s.blocks.size() * kKvBlock >= size(s.first_position + s.rows),
          "a block table covers the rows of its sequence");
}

}  // namespace

KvType natural_kv_type() { return static_cast<KvType>(kernels().natural_kv); }

std::size_t KvView::half_bytes() const {
  const std::size_t elements = size(head_dim) * kKvBlock;
  return type == KvType::int8 ? elements + kKvBlock * sizeof(float) : 2 * elements;
}

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
    std::uint8_t* block = reinterpret_cast<std::uint8_t*>(kv.data) + size(s.blocks[size(index)]) * kv.block_bytes;
    const int begin = std::max(s.first_position, index * kKvBlock);
    const int end = std::min(s.first_position + s.rows, (index + 1) * kKvBlock);
    for (int h = 0; h < kv.kv_heads; ++h, block += kv.head_bytes())
      for (int position = begin; position < end; ++position) {
        const std::size_t row = size(s.first_row + position - s.first_position), column = size(h * kv.head_dim);
        const int format = static_cast<int>(kv.type), slot = position % kKvBlock;
        kernels().store_key(k + row * ldk + column, kv.head_dim, format, block, slot);
        kernels().store_value(v + row * ldv + column, kv.head_dim, format, block + kv.half_bytes(), slot);
      }
  });
}

void attention(const KvView& kv, const AttentionShape& shape, std::span<const KvSequence> sequences, const float* q,
               std::size_t ldq, float* out, std::size_t ldo, ThreadPool& pool) {
  check(kv, sequences);
  CHECK(shape.heads > 0 && shape.heads % kv.kv_heads == 0, "query heads are a multiple of the KV heads");
  CHECK(!shape.whole || shape.window == 0, "a window looks back only");
  thread_local Plan plan;
  Plan& mine = plan;  // the pool's threads have their own
  mine.make(kv, shape, sequences);
  pool.for_each(mine.jobs(), [&](int index, int) { run(kv, shape, mine, index, {q, ldq, out, ldo}); });
}

}  // namespace ashlar::kernels
