#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

std::vector<float> normals(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

// A sequence whose keys and values lie in shuffled blocks.
struct Scene {
  int heads, kv_heads, head_dim, positions;
  KvType type;
  int window;
  std::vector<float> q, k, v;
  std::vector<int> table;
  std::vector<std::byte> keys, values;

  Scene(int heads_, int kv_heads_, int head_dim_, int positions_, KvType type_, int window_)
      : heads(heads_), kv_heads(kv_heads_), head_dim(head_dim_), positions(positions_), type(type_), window(window_) {
    q = normals(static_cast<std::size_t>(positions * heads * head_dim), 1);
    k = normals(static_cast<std::size_t>(positions * kv_heads * head_dim), 2);
    v = normals(static_cast<std::size_t>(positions * kv_heads * head_dim), 3);
    const int blocks = (positions + 15) / 16;
    for (int b = 0; b < blocks; ++b) table.push_back(b + 2);
    std::shuffle(table.begin(), table.end(), std::mt19937(4));
    keys.resize(static_cast<std::size_t>((blocks + 2) * kv_heads * head_dim) * 32);
    values.resize(keys.size());
  }

  KvView view() {
    return {keys.data(), values.data(), static_cast<std::size_t>(kv_heads * head_dim) * 32, kv_heads, head_dim, type};
  }

  void store(int first, int rows, ThreadPool& pool) {
    const KvSequence s{0, rows, first, table};
    const auto at = static_cast<std::size_t>(first * kv_heads * head_dim);
    const auto ld = static_cast<std::size_t>(kv_heads * head_dim);
    store_kv(view(), {&s, 1}, k.data() + at, ld, v.data() + at, ld, pool);
  }

  std::vector<float> attend(int first, int rows, ThreadPool& pool) {
    const KvSequence s{0, rows, first, table};
    const auto ld = static_cast<std::size_t>(heads * head_dim);
    std::vector<float> out(static_cast<std::size_t>(rows) * ld);
    attention(view(), {heads, window, 1 / std::sqrt(static_cast<float>(head_dim))}, {&s, 1},
              q.data() + static_cast<std::size_t>(first) * ld, ld, out.data(), ld, pool);
    return out;
  }

  float rounded(float x) const { return type == KvType::f16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x)); }

  // Plain softmax attention in double precision.
  std::vector<double> expected(int position, int head) const {
    const int kv = head / (heads / kv_heads), first = window > 0 ? std::max(0, position - window + 1) : 0;
    std::vector<double> weights, out(static_cast<std::size_t>(head_dim));
    double total = 0;
    for (int p = first; p <= position; ++p) {
      double score = 0;
      for (int d = 0; d < head_dim; ++d)
        score += double{q[static_cast<std::size_t>((position * heads + head) * head_dim + d)]} *
                 double{rounded(k[static_cast<std::size_t>((p * kv_heads + kv) * head_dim + d)])};
      weights.push_back(std::exp(score / std::sqrt(head_dim)));
      total += weights.back();
    }
    for (int p = first; p <= position; ++p)
      for (int d = 0; d < head_dim; ++d)
        out[static_cast<std::size_t>(d)] +=
            weights[static_cast<std::size_t>(p - first)] / total *
            double{rounded(v[static_cast<std::size_t>((p * kv_heads + kv) * head_dim + d)])};
    return out;
  }
};

class AttentionTest : public testing::Test {
 protected:
  ~AttentionTest() override { EXPECT_TRUE(select_isa("auto")); }
  ThreadPool pool{2};
};

TEST_F(AttentionTest, RefIsSoftmaxAttention) {
  ASSERT_TRUE(select_isa("ref"));
  for (const int window : {0, 40}) {
    Scene scene(4, 2, 16, 530, KvType::f16, window);
    scene.store(0, scene.positions, pool);
    const std::vector<float> out = scene.attend(0, scene.positions, pool);
    for (const int position : {0, 1, 15, 16, 100, 255, 256, 300, 529})
      for (int head = 0; head < 4; ++head) {
        const std::vector<double> expected = scene.expected(position, head);
        for (int d = 0; d < 16; ++d)
          ASSERT_NEAR(out[static_cast<std::size_t>((position * 4 + head) * 16 + d)],
                      expected[static_cast<std::size_t>(d)], 2e-6)
              << position << " " << head;
      }
  }
}

TEST_F(AttentionTest, EveryRowOfTheTableGivesTheBitsOfRef) {
  struct Case {
    int heads, kv_heads, head_dim, positions, window;
  };
  const Case cases[] = {{8, 4, 8, 40, 0},     {14, 2, 64, 290, 0}, {4, 4, 16, 33, 5},
                        {32, 1, 24, 20, 0},   {6, 2, 80, 300, 70}, {4, 1, 128, 70, 0},
                        {3, 1, 96, 273, 100}, {2, 1, 256, 40, 0},  {16, 1, 64, 65, 0}};
  for (const Case& c : cases)
    for (const KvType type : {KvType::f16, KvType::bf16}) {
      std::vector<float> expected;
      std::vector<std::byte> keys, values;
      for (const Kernels* row : kernel_rows()) {
        ASSERT_TRUE(select_isa(row->isa));
        Scene scene(c.heads, c.kv_heads, c.head_dim, c.positions, type, c.window);
        scene.k[0] = 1e6f;
        scene.store(0, c.positions, pool);
        const int rows = std::min(c.positions, 37);
        const std::vector<float> out = scene.attend(c.positions - rows, rows, pool);
        if (row == kernel_rows().front()) {
          expected = out;
          keys = scene.keys;
          values = scene.values;
        }
        ASSERT_EQ(scene.keys, keys) << row->isa;
        ASSERT_EQ(scene.values, values) << row->isa;
        ASSERT_EQ(out, expected) << row->isa << " head_dim " << c.head_dim;
      }
    }
}

TEST_F(AttentionTest, ARowDoesNotDependOnTheChunkItCameIn) {
  for (const Kernels* row :
       kernel_rows().subspan(kernel_rows().size() > 1 ? 1 : 0)) {  // ref is held to the others above
    ASSERT_TRUE(select_isa(row->isa));
    Scene whole(6, 2, 64, 300, KvType::f16, 0), pieces(6, 2, 64, 300, KvType::f16, 0);
    whole.store(0, 300, pool);
    const std::vector<float> expected = whole.attend(0, 300, pool);
    std::vector<float> out;
    for (int first = 0, step = 1; first < 300; first += step, step = step * 3 % 23 + 1) {
      const int rows = std::min(step, 300 - first);
      pieces.store(first, rows, pool);
      const std::vector<float> part = pieces.attend(first, rows, pool);
      out.insert(out.end(), part.begin(), part.end());
    }
    ASSERT_EQ(out, expected) << row->isa;
  }
}

}  // namespace
}  // namespace ashlar::kernels
