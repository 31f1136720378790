#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr KvType kTypes[] = {KvType::f16, KvType::bf16, KvType::int8};

std::size_t size(int n) { return static_cast<std::size_t>(n); }

std::vector<float> normals(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(size(n));
  for (float& v : x) v = normal(random);
  return x;
}

struct Sizes {
  int heads, kv_heads, head_dim, positions, window;
  float cap = 0;
  bool whole = false;
  bool sinks = false;
};

// One sequence whose keys and values lie in shuffled blocks, among others that hold what is not a number.
struct Scene {
  Sizes is;
  KvType type;
  std::vector<float> q, k, v, sinks;
  std::vector<int> table;
  std::vector<std::byte> data;

  Scene(Sizes sizes, KvType type_) : is(sizes), type(type_) {
    q = normals(is.positions * is.heads * is.head_dim, 1);
    k = normals(is.positions * is.kv_heads * is.head_dim, 2);
    v = normals(is.positions * is.kv_heads * is.head_dim, 3);
    sinks = normals(is.heads, 5);
    for (float& sink : sinks) sink *= 4;  // some above all scores, some below
    const int blocks = (is.positions + 15) / 16;
    for (int b = 0; b < blocks; ++b) table.push_back(b + 2);
    std::ranges::shuffle(table, std::mt19937(4));
    data.assign(size(blocks + 2) * view().block_bytes, std::byte{0xff});
  }

  std::size_t ldq() const { return size(is.heads * is.head_dim); }

  KvView view() {
    KvView view{.data = data.data(), .kv_heads = is.kv_heads, .head_dim = is.head_dim, .type = type};
    view.block_bytes = size(is.kv_heads) * view.head_bytes();
    return view;
  }

  AttentionShape shape() const {
    return {.heads = is.heads,
            .window = is.window,
            .scale = 1 / std::sqrt(static_cast<float>(is.head_dim)),
            .whole = is.whole,
            .cap = is.cap,
            .sinks = is.sinks ? sinks.data() : nullptr};
  }

  void store(int first, int rows, ThreadPool& pool) {
    const KvSequence s{0, rows, first, table};
    const std::size_t ld = size(is.kv_heads * is.head_dim), at = size(first) * ld;
    store_kv(view(), {&s, 1}, k.data() + at, ld, v.data() + at, ld, pool);
  }

  std::vector<float> attend(int first, int rows, ThreadPool& pool) {
    const KvSequence s{0, rows, first, table};
    std::vector<float> out(size(rows) * ldq());
    attention(view(), shape(), {&s, 1}, q.data() + size(first) * ldq(), ldq(), out.data(), ldq(), pool);
    return out;
  }

  // The head_dim elements of one position as they are stored.
  std::vector<double> rounded(const std::vector<float>& x, int position, int kv_head) const {
    const float* from = x.data() + size(position * is.kv_heads + kv_head) * size(is.head_dim);
    float most = 0;
    for (int d = 0; d < is.head_dim; ++d) most = std::max(most, std::abs(from[d]));
    std::vector<double> out;
    for (int d = 0; d < is.head_dim; ++d)
      out.push_back(type == KvType::f16    ? f16_to_f32(f32_to_f16(from[d]))
                    : type == KvType::bf16 ? bf16_to_f32(f32_to_bf16(from[d]))
                                           : std::nearbyint(from[d] * (127 / most)) * (most / 127));
    return out;
  }

  // Plain softmax attention in double precision.
  std::vector<double> expected(int position, int head) const {
    const int kv = head / (is.heads / is.kv_heads), first = is.window > 0 ? std::max(0, position - is.window + 1) : 0;
    const int last = is.whole ? is.positions - 1 : position;
    std::vector<double> weights, out(size(is.head_dim));
    double total = is.sinks ? std::exp(double{sinks[size(head)]}) : 0;
    for (int p = first; p <= last; ++p) {
      const std::vector<double> key = rounded(k, p, kv);
      double score = 0;
      for (int d = 0; d < is.head_dim; ++d)
        score += double{q[size((position * is.heads + head) * is.head_dim + d)]} * key[size(d)];
      score /= std::sqrt(is.head_dim);
      if (is.cap > 0) score = double{is.cap} * std::tanh(score / double{is.cap});
      weights.push_back(std::exp(score));
      total += weights.back();
    }
    for (int p = first; p <= last; ++p) {
      const std::vector<double> value = rounded(v, p, kv);
      for (int d = 0; d < is.head_dim; ++d) out[size(d)] += weights[size(p - first)] / total * value[size(d)];
    }
    return out;
  }

  void expect_softmax(int first, const std::vector<float>& out, double tolerance) const {
    for (const int position : {0, 1, 15, 16, 100, 255, 256, 300, 511, 512, 529, is.positions - 1}) {
      if (position < first || position >= is.positions) continue;
      for (int head = 0; head < is.heads; ++head) {
        const std::vector<double> wanted = expected(position, head);
        for (int d = 0; d < is.head_dim; ++d)
          ASSERT_NEAR(out[size(((position - first) * is.heads + head) * is.head_dim + d)], wanted[size(d)], tolerance)
              << kernels().isa << " head_dim " << is.head_dim << " position " << position << " head " << head
              << " type " << static_cast<int>(type);
      }
    }
  }
};

bool has_tiles(const Kernels& row) { return std::string(row.isa) == "amx"; }

class AttentionTest : public testing::Test {
 protected:
  ~AttentionTest() override { EXPECT_TRUE(select_isa("auto")); }
  ThreadPool pool{2};
};

TEST_F(AttentionTest, RefIsSoftmaxAttention) {
  ASSERT_TRUE(select_isa("ref"));
  for (const KvType type : kTypes)
    for (const int window : {0, 40})
      for (const bool sinks : {false, true}) {
        Scene scene({4, 2, 16, 530, window, 0, false, sinks}, type);
        scene.store(0, scene.is.positions, pool);
        scene.expect_softmax(0, scene.attend(0, scene.is.positions, pool), 2e-6);
      }
}

TEST_F(AttentionTest, RowsThatSeeTheWholeSequence) {
  for (const Kernels* row : kernel_rows()) {
    ASSERT_TRUE(select_isa(row->isa));
    for (const int positions : {1, 7, 16, 17, 45, 300, 530}) {
      Scene scene({4, 2, 16, positions, 0, 0, true}, natural_kv_type());
      scene.store(0, positions, pool);
      scene.expect_softmax(0, scene.attend(0, positions, pool), has_tiles(*row) ? 2e-2 : 5e-6);
    }
  }
}

TEST_F(AttentionTest, EveryRowOfTheTableIsSoftmaxAttention) {
  const Sizes cases[] = {{8, 4, 8, 40, 0},
                         {14, 2, 64, 1100, 0},
                         {4, 4, 16, 33, 5},
                         {32, 1, 24, 20, 0},
                         {6, 2, 80, 700, 300},
                         {4, 1, 128, 70, 0},
                         {3, 1, 96, 273, 100},
                         {2, 1, 256, 300, 0},
                         {16, 1, 64, 65, 0},
                         {140, 1, 8, 30, 0},
                         {2, 1, 40, 256, 17},
                         {2, 2, 48, 257, 0},
                         {8, 4, 64, 700, 0, 2},
                         {4, 2, 256, 300, 90, 50},
                         {16, 1, 24, 33, 0, 1},
                         {8, 1, 64, 600, 0, 0, false, true},
                         {16, 2, 64, 300, 128, 0, false, true},
                         {140, 1, 16, 530, 0, 0, false, true}};
  for (const Kernels* row : kernel_rows()) {
    if (row == kernel_rows().front()) continue;
    ASSERT_TRUE(select_isa(row->isa));
    for (const Sizes& sizes : cases)
      for (const KvType type : kTypes) {
        Scene scene(sizes, type);
        scene.store(0, sizes.positions, pool);
        const int first = std::max(0, sizes.positions - 70);
        // bf16 has 8 bits: of q, of converted keys and values, of weights. Values are about 1, their sums less.
        scene.expect_softmax(first, scene.attend(first, sizes.positions - first, pool),
                             has_tiles(*row) ? 0.02
                             : sizes.cap > 0 ? 2e-5
                                             : 4e-6);
      }
  }
}

TEST_F(AttentionTest, RowsWithoutTilesGiveTheBitsOfRef) {
  const Sizes cases[] = {{8, 4, 8, 40, 0},
                         {14, 2, 64, 290, 0},
                         {4, 4, 16, 33, 5},
                         {32, 1, 24, 20, 0},
                         {6, 2, 80, 300, 70},
                         {4, 1, 128, 70, 0},
                         {3, 1, 96, 273, 100},
                         {2, 1, 256, 40, 0},
                         {16, 1, 64, 65, 0},
                         {3, 1, 8, 1100, 0},
                         {2, 1, 24, 1700, 530},
                         {8, 2, 64, 290, 40, 1.5f},
                         {8, 1, 64, 700, 0, 0, false, true}};
  for (const Sizes& sizes : cases)
    for (const KvType type : kTypes) {
      std::vector<float> expected;
      std::vector<std::byte> data;
      for (const Kernels* row : kernel_rows()) {
        if (has_tiles(*row)) continue;
        ASSERT_TRUE(select_isa(row->isa));
        Scene scene(sizes, type);
        scene.k[0] = 1e6f;
        scene.v[0] = std::numeric_limits<float>::infinity();  // of a key and a value that few rows see
        scene.v[1] = std::numeric_limits<float>::quiet_NaN();
        scene.store(0, sizes.positions, pool);
        if (row == kernel_rows().front()) data = scene.data;
        ASSERT_EQ(scene.data, data) << row->isa << " type " << static_cast<int>(type);
        scene.v[0] = scene.v[1] = 1;
        scene.store(0, sizes.positions, pool);
        const int rows = std::min(sizes.positions, 37);
        const std::vector<float> out = scene.attend(sizes.positions - rows, rows, pool);
        if (row == kernel_rows().front()) expected = out;
        ASSERT_EQ(out, expected) << row->isa << " head_dim " << sizes.head_dim;
      }
    }
}

// All rows of the table but ref, which is held to the others above.
std::vector<const Kernels*> fast_rows() {
  std::vector<const Kernels*> rows(kernel_rows().begin(), kernel_rows().end());
  if (rows.size() > 1) rows.erase(rows.begin());
  return rows;
}

TEST_F(AttentionTest, ARowDoesNotDependOnTheChunkItCameIn) {
  for (const Kernels* row : fast_rows()) {
    ASSERT_TRUE(select_isa(row->isa));
    for (const KvType type : kTypes)
      for (const int window : {0, 270})
        for (const int most : {1, 23, 150}) {
          const Sizes sizes{3, 1, 40, most == 1 ? 520 : 790, window, 0, false, /*sinks=*/type == KvType::bf16};
          Scene whole(sizes, type), pieces(sizes, type);
          whole.store(0, sizes.positions, pool);
          const std::vector<float> expected = whole.attend(0, sizes.positions, pool);
          std::vector<float> out;
          for (int first = 0, step = 1; first < sizes.positions; first += step, step = step * 3 % most + 1) {
            const int rows = std::min(step, sizes.positions - first);
            pieces.store(first, rows, pool);
            const std::vector<float> part = pieces.attend(first, rows, pool);
            out.insert(out.end(), part.begin(), part.end());
          }
          ASSERT_EQ(out, expected) << row->isa << " window " << window << " chunks up to " << most;
          ASSERT_EQ(pieces.data, whole.data) << row->isa;
        }
  }
}

// Sequences that begin with the same prefix, in the same blocks or in copies of them.
struct Crowd {
  Scene scene;
  std::vector<std::vector<int>> tables;
  std::vector<KvSequence> batch;
  std::vector<float> q;
  int rows = 0;

  struct Member {
    int shared_blocks, position, rows;
  };

  Crowd(Sizes sizes, KvType type, std::span<const Member> members, bool share, ThreadPool& pool) : scene(sizes, type) {
    const int each = (sizes.positions + 15) / 16;
    int next = each + 2;
    scene.data.resize(size(next + each * static_cast<int>(members.size())) * scene.view().block_bytes, std::byte{0xff});
    scene.store(0, sizes.positions, pool);
    for (const Member& m : members) {
      std::vector<int> table = scene.table;
      for (int b = 0; b < each; ++b)
        if (!share || b >= m.shared_blocks) table[size(b)] = next++;
      tables.push_back(table);
    }
    const std::size_t ld = size(sizes.kv_heads * sizes.head_dim);
    for (std::size_t i = 0; i < members.size(); ++i) {
      const Member& m = members[i];
      const int last = m.position + m.rows, prefix = std::min(last, 16 * m.shared_blocks);
      // The prefix is everybody's; what comes after it is shifted by some rows, so that it is one's own.
      const KvSequence same{0, prefix, 0, tables[i]}, own{0, last - prefix, prefix, tables[i]};
      const int shift = static_cast<int>(i) % 3;
      if (!share) store_kv(scene.view(), {&same, 1}, scene.k.data(), ld, scene.v.data(), ld, pool);
      store_kv(scene.view(), {&own, 1}, scene.k.data() + size(prefix - std::min(prefix, shift)) * ld, ld,
               scene.v.data() + size(prefix) * ld, ld, pool);
      batch.push_back({rows, m.rows, m.position, tables[i]});
      rows += m.rows;
    }
    q = normals(rows * sizes.heads * sizes.head_dim, 7);
  }

  std::vector<float> attend(std::span<const KvSequence> sequences, ThreadPool& pool) {
    std::vector<float> out(q.size());
    attention(scene.view(), scene.shape(), sequences, q.data(), scene.ldq(), out.data(), scene.ldq(), pool);
    return out;
  }
};

TEST_F(AttentionTest, ARowDoesNotDependOnItsCompanyNorOnSharingNorOnThreads) {
  const Crowd::Member members[] = {{20, 330, 1},  {0, 1099, 1}, {20, 400, 3},  {33, 600, 1},
                                   {70, 1150, 1}, {0, 40, 60},  {70, 1130, 5}, {40, 1000, 1},
                                   {70, 1129, 1}, {20, 321, 1}, {31, 511, 1},  {64, 1024, 2},
                                   {32, 511, 1},  {3, 50, 1},   {0, 0, 1},     {16, 900, 130}};
  for (const Kernels* row : fast_rows()) {
    ASSERT_TRUE(select_isa(row->isa));
    for (const Sizes& sizes :
         {Sizes{7, 1, 64, 1200, 0}, Sizes{4, 2, 24, 1200, 300}, Sizes{8, 1, 64, 1200, 0, false, true}})
      for (const KvType type : kTypes) {
        if ((sizes.window > 0 || sizes.sinks) && type != KvType::bf16) continue;
        Crowd shared(sizes, type, members, true, pool), apart(sizes, type, members, false, pool);
        ThreadPool one(1);
        std::vector<float> alone(shared.q.size());
        for (const KvSequence& s : apart.batch) {
          const std::vector<float> part = apart.attend({&s, 1}, one);
          const auto begin = static_cast<std::ptrdiff_t>(size(s.first_row) * apart.scene.ldq());
          std::copy_n(part.begin() + begin, size(s.rows) * apart.scene.ldq(), alone.begin() + begin);
        }
        for (const int threads : {1, 4}) {
          ThreadPool some(threads);
          ASSERT_EQ(apart.attend(apart.batch, some), alone) << row->isa << " threads " << threads;
          ASSERT_EQ(shared.attend(shared.batch, some), alone) << row->isa << " threads " << threads;
        }
      }
  }
}

}  // namespace
}  // namespace ashlar::kernels
