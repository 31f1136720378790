// How fast are the kernels in use, beside what the machine can do?
// Prints the measured read bandwidth and arithmetic peaks, then for each weight
// type, shape and number of rows: GB/s of packed weights and TOPS (a multiply-add is two).
// For few rows the weights are spread over enough copies that they come from memory.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/blocks.h"
#include "kernels/kernels.h"
#include "kernels/matrix.h"
#include "kernels/probe.h"

namespace {

using namespace ashlar;
using namespace ashlar::kernels;

constexpr Type kAll[] = {Type::q4_0, Type::q8_0,   Type::q4_k,   Type::q6_k, Type::q5_0,
                         Type::bf16, Type::f16,    Type::f32,    Type::q4_1, Type::q5_1,
                         Type::q5_k, Type::iq4_nl, Type::iq4_xs, Type::q2_k, Type::q3_k};
constexpr std::size_t kBeyondCaches = 384u << 20;

ThreadPool& pool() {
  static ThreadPool pool([] {
    const char* threads = std::getenv("ASHLAR_THREADS");
    return threads != nullptr ? std::atoi(threads) : 0;
  }());
  return pool;
}

// Wall time; on one thread its CPU time, which other programs on the machine disturb less.
void enlist(const std::string& name, auto run) {
  auto* bench = benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMicrosecond);
  if (pool().size() > 1) bench->UseRealTime();
}

std::vector<float> normals(std::size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

std::vector<std::byte> weights(Type type, int rows, int columns) {
  const std::vector<float> x = normals(static_cast<std::size_t>(columns));
  std::vector<std::byte> data(row_bytes(type, columns) * static_cast<std::size_t>(rows));
  for (int r = 0; r < rows; ++r)
    quantize_row(type, x.data(), data.data() + row_bytes(type, columns) * static_cast<std::size_t>(r), columns);
  return data;
}

void product(benchmark::State& state, Type type, int rows, int columns, int count) {
  const std::vector<std::byte> data = weights(type, rows, columns);
  const int copies = count > 16 ? 1 : static_cast<int>(kBeyondCaches / data.size()) + 1;
  const std::vector<RawMatrix> raw(static_cast<std::size_t>(copies), RawMatrix{type, rows, columns, data.data()});
  std::vector<PackedMatrix> packed;
  for (const RawMatrix& one : raw) packed.push_back(std::move(*pack({&one, 1}, pool())));
  const std::vector<float> x = normals(static_cast<std::size_t>(count * columns));
  const auto ldy = static_cast<std::size_t>(rows + 16);  // rows a power of two apart would compete in the cache
  const HugeMemory y = *HugeMemory::allocate(static_cast<std::size_t>(count) * ldy * sizeof(float));
  Activations a;
  a.assign(x.data(), static_cast<std::size_t>(columns), count, columns, packed[0].forms(), pool());
  std::size_t next = 0;
  for (auto _ : state) {
    matmul(packed[next], a, reinterpret_cast<float*>(y.data()), ldy, pool());
    next = (next + 1) % packed.size();
  }
  const double runs = static_cast<double>(state.iterations());
  const auto tiles = static_cast<double>((rows + 15) / 16);
  state.counters["GB/s"] = benchmark::Counter(
      runs * tiles * static_cast<double>(packed[0].segments()[0].tile_bytes) / 1e9, benchmark::Counter::kIsRate);
  state.counters["TOPS"] = benchmark::Counter(runs * 2.0 * rows * columns * count / 1e12, benchmark::Counter::kIsRate);
}

void packing(benchmark::State& state, Type type) {
  const std::vector<std::byte> data = weights(type, 2048, 2048);
  const RawMatrix raw{type, 2048, 2048, data.data()};
  for (auto _ : state) benchmark::DoNotOptimize(pack({&raw, 1}, pool()));
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(data.size()) / 1e9, benchmark::Counter::kIsRate);
}

void quantizing(benchmark::State& state, int rows, Forms forms) {
  const std::vector<float> x = normals(static_cast<std::size_t>(rows) * 2048);
  Activations a;
  for (auto _ : state) a.assign(x.data(), 2048, rows, 2048, forms, pool());
  state.counters["Gelem/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * rows * 2048 / 1e9, benchmark::Counter::kIsRate);
}

struct Attending {
  int heads, kv_heads, head_dim;
  KvType type;
  int positions, count, sequences;
  bool shared;  // all but the last 16 positions are everybody's
};

std::string name_of(const Attending& a) {
  const char* types[] = {"f16", "bf16", "int8"};
  return "attention/" + std::to_string(a.heads) + ":" + std::to_string(a.kv_heads) + "x" + std::to_string(a.head_dim) +
         "/" + types[static_cast<int>(a.type)] + "/positions:" + std::to_string(a.positions) +
         "/rows:" + std::to_string(a.count) + "/sequences:" + std::to_string(a.sequences) + (a.shared ? "/shared" : "");
}

// `count` rows at the end of `positions`, for each of the sequences. With few rows keys and values are read from
// memory: every run has other blocks. KV_GB/s counts shared blocks once.
void attending(benchmark::State& state, const Attending& a) {
  const int own = a.shared ? 1 : (a.positions + 15) / 16, common = a.shared ? (a.positions - 1) / 16 : 0;
  const int blocks = own * a.sequences + common;
  KvView kv{.kv_heads = a.kv_heads, .head_dim = a.head_dim, .type = a.type};
  kv.block_bytes = static_cast<std::size_t>(a.kv_heads) * kv.head_bytes();
  const std::size_t bytes = kv.block_bytes * static_cast<std::size_t>(blocks);
  const int copies = a.count > 16 ? 1 : static_cast<int>(kBeyondCaches / bytes) + 1;
  auto memory = *HugeMemory::allocate(bytes * static_cast<std::size_t>(copies));
  kv.data = memory.data();
  std::vector<std::vector<int>> tables(static_cast<std::size_t>(a.sequences * copies));
  const auto width = static_cast<std::size_t>(a.kv_heads * a.head_dim);
  const std::vector<float> data = normals(static_cast<std::size_t>(a.positions) * width);
  std::vector<std::vector<KvSequence>> batches(static_cast<std::size_t>(copies));
  for (int copy = 0; copy < copies; ++copy)
    for (int s = 0; s < a.sequences; ++s) {
      auto& table = tables[static_cast<std::size_t>(copy * a.sequences + s)];
      const int first = copy * blocks;
      for (int b = 0; b < common; ++b) table.push_back(first + b);
      for (int b = 0; b < own; ++b) table.push_back(first + common + s * own + b);
      const KvSequence all{0, a.positions, 0, table};
      store_kv(kv, {&all, 1}, data.data(), width, data.data(), width, pool());
      batches[static_cast<std::size_t>(copy)].push_back({s * a.count, a.count, a.positions - a.count, table});
    }
  const auto ld = static_cast<std::size_t>(a.heads * a.head_dim);
  const std::vector<float> q = normals(ld * static_cast<std::size_t>(a.count * a.sequences));
  std::vector<float> out(q.size());
  std::size_t next = 0;
  for (auto _ : state) {
    attention(kv, {a.heads, 0, 0.125f}, batches[next], q.data(), ld, out.data(), ld, pool());
    next = (next + 1) % batches.size();
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["KV_GB/s"] = benchmark::Counter(runs * static_cast<double>(bytes) / 1e9, benchmark::Counter::kIsRate);
  const double seen = a.count * (a.positions - (a.count - 1) / 2.0);
  state.counters["TFLOPS"] =
      benchmark::Counter(runs * a.sequences * 4.0 * seen * a.heads * a.head_dim / 1e12, benchmark::Counter::kIsRate);
}

void storing(benchmark::State& state, KvType type, int positions) {
  KvView kv{.kv_heads = 8, .head_dim = 64, .type = type};
  kv.block_bytes = 8 * kv.head_bytes();
  std::vector<int> table;
  for (int b = 0; b < (positions + 15) / 16; ++b) table.push_back(b);
  auto memory = *HugeMemory::allocate(kv.block_bytes * table.size());
  kv.data = memory.data();
  const std::vector<float> data = normals(static_cast<std::size_t>(positions) * 512);
  const KvSequence all{0, positions, 0, table};
  for (auto _ : state) store_kv(kv, {&all, 1}, data.data(), 512, data.data(), 512, pool());
  state.counters["Gelem/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * positions * 1024 / 1e9, benchmark::Counter::kIsRate);
}

void peak(benchmark::State& state, double (*operations)(std::int64_t)) {
  double done = 0;
  for (auto _ : state) done += operations(1000);  // on this thread
  state.counters["TOPS"] = benchmark::Counter(done / 1e12, benchmark::Counter::kIsRate);
}

void add_all() {
  enlist("peak/int8", [](benchmark::State& s) { peak(s, ashlar::kernels::kernels().int8_operations); });
  enlist("peak/f32", [](benchmark::State& s) { peak(s, ashlar::kernels::kernels().float_operations); });
  struct Size {
    int rows, columns;
  };
  for (const Size size : {Size{2048, 2048}, Size{8192, 2048}, Size{896, 4864}})
    for (const Type type : kAll)
      for (const int count : {1, 4, 16, 128, 512}) {
        if (size.columns % type_info(type).block != 0) continue;
        const std::string name = "matmul/" + std::string(type_info(type).name) + "/" + std::to_string(size.rows) + "x" +
                                 std::to_string(size.columns) + "/M:" + std::to_string(count);
        enlist(name, [=](benchmark::State& s) { product(s, type, size.rows, size.columns, count); });
      }
  for (const Type type : kAll)
    enlist("pack/" + std::string(type_info(type).name), [=](benchmark::State& s) { packing(s, type); });
  for (const int rows : {1, 16, 512})
    for (const bool floats : {false, true})
      enlist("assign/" + std::string(floats ? "floats" : "int8") + "/M:" + std::to_string(rows),
             [=](benchmark::State& s) { quantizing(s, rows, {!floats, floats}); });
  for (const KvType type : {KvType::f16, KvType::bf16, KvType::int8}) {
    for (const Attending& shape : {Attending{14, 2, 64}, Attending{32, 8, 64}, Attending{32, 8, 128}}) {
      struct Load {
        int positions, count, sequences;
        bool shared;
      };
      for (const Load l : {Load{1024, 1, 1, false}, Load{4096, 1, 1, false}, Load{1024, 1, 16, false},
                           Load{528, 1, 16, true}, Load{512, 512, 1, false}, Load{2048, 512, 1, false}}) {
        Attending a = shape;
        a.type = type;
        a.positions = l.positions;
        a.count = l.count;
        a.sequences = l.sequences;
        a.shared = l.shared;
        enlist(name_of(a), [=](benchmark::State& s) { attending(s, a); });
      }
    }
    for (const int positions : {1, 512})
      enlist("store_kv/" + std::to_string(static_cast<int>(type)) + "/positions:" + std::to_string(positions),
             [=](benchmark::State& s) { storing(s, type, positions); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* isa = std::getenv("ASHLAR_ISA"))
    if (auto status = select_isa(isa); !status) {
      std::fprintf(stderr, "%s\n", status.error().message.c_str());
      return 1;
    }
  benchmark::Initialize(&argc, argv);
  const Peaks peaks = compute_peaks(pool());
  const auto bandwidth = read_bandwidth(pool());
  std::printf("isa %s, %d threads: read %.1f GB/s, int8 %.3f TOPS, bf16 %.3f, f32 %.3f TFLOPS\n", ashlar::kernels::kernels().isa,
              pool().size(), bandwidth ? *bandwidth / 1e9 : 0.0, peaks.int8_tops, peaks.bf16_tflops, peaks.float_tflops);
  add_all();
  benchmark::RunSpecifiedBenchmarks();
}
