// What do adapters cost? Steps of sixteen sequences that decode, of fourteen that decode beside two that read a piece
// of their prompts, or of one that reads its prompt: without adapters, all with one, and over eight.
//
//   models_bench [SHAPE [TYPE [RANK [ROUNDS [THREADS]]]]]
//
// The adapters stand beside all seven matrices of each layer. The cases take turns, and the least of each one's steps
// counts.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "kernels/kernels.h"
#include "models/formats/gguf_writer.h"
#include "models/shapes.h"

namespace {

using namespace ashlar;
using Adapters = std::vector<std::shared_ptr<const models::Adapter>>;

constexpr int kSequences = 16, kAdapters = 8, kPosition = 100, kPrompt = 512, kPiece = 48, kReading = 2;

int fail(const Error& error) {
  fmt::print(stderr, "models_bench: {}\n", error.message);
  return 1;
}

Status write_adapter(const models::Shape& s, int rank, const std::filesystem::path& path) {
  struct Matrix {
    const char* name;
    int rows, columns;
  };
  const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  const Matrix matrices[] = {{"attn_q", q, s.width},          {"attn_k", kv, s.width},
                             {"attn_v", kv, s.width},         {"attn_output", s.width, q},
                             {"ffn_gate", s.hidden, s.width}, {"ffn_up", s.hidden, s.width},
                             {"ffn_down", s.width, s.hidden}};
  std::minstd_rand random(1);
  std::vector<float> values(static_cast<std::size_t>(rank * std::max({s.width, q, s.hidden})));
  for (float& value : values) value = 0.02f * (static_cast<float>(random()) / 2147483648.0f - 0.5f);
  models::gguf::Writer writer;
  writer.add("general.architecture", s.architecture);
  writer.add("general.type", "adapter");
  writer.add("adapter.type", "lora");
  writer.add("adapter.lora.alpha", static_cast<float>(rank));
  const auto add = [&](const std::string& name, int columns, int rows) {
    const auto count = static_cast<std::size_t>(columns) * static_cast<std::size_t>(rows);
    writer.add_tensor(name, kernels::Type::f32, {columns, rows}, std::as_bytes(std::span(values).first(count)));
  };
  for (int layer = 0; layer < s.layers; ++layer)
    for (const Matrix& matrix : matrices) {
      const std::string name = fmt::format("blk.{}.{}.weight", layer, matrix.name);
      add(name + ".lora_a", matrix.columns, rank);
      add(name + ".lora_b", rank, matrix.rows);
    }
  return writer.write(path);
}

Result<Adapters> load_adapters(const models::Model& model, int rank) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("ashlar_models_bench_{}.gguf", getpid());
  Adapters adapters;
  const Status written = write_adapter(model.shape(), rank, path);
  for (int i = 0; i < kAdapters && written; ++i) {
    auto loaded = model.load_adapter(path);
    if (!loaded) return loaded.error();
    adapters.push_back(std::move(*loaded));
  }
  std::filesystem::remove(path);
  if (!written) return written.error();
  return adapters;
}

class Bench {
 public:
  Bench(models::Model& model, models::KvStore& kv, const Adapters& adapters)
      : model_(model), kv_(kv), logits_(kSequences * static_cast<std::size_t>(model.shape().vocabulary)) {
    for (const auto& adapter : adapters) adapters_.push_back(adapter.get());
  }

  // Seconds of a step of kSequences that take turns with the first `used` adapters: the last `reading` of them with
  // kPiece rows, the others with one.
  double decode(int used, int reading = 0) {
    std::vector<models::Step::Sequence> sequences;
    std::vector<std::vector<int>> blocks;
    std::vector<std::int32_t> tokens;
    std::vector<int> rows;
    for (int i = 0; i < kSequences; ++i) blocks.push_back(table(i, kPosition + kPiece));
    for (int i = 0; i < kSequences; ++i) {
      const auto* adapter = used == 0 ? nullptr : adapters_[static_cast<std::size_t>(i % used)];
      const int count = i < kSequences - reading ? 1 : kPiece, first = static_cast<int>(tokens.size());
      sequences.push_back({first, count, kPosition, blocks[static_cast<std::size_t>(i)], adapter});
      tokens.resize(tokens.size() + static_cast<std::size_t>(count), i);
      rows.push_back(first + count - 1);
    }
    return seconds({.tokens = tokens, .sequences = sequences, .logit_rows = rows, .logits = logits_});
  }
  double prompt(int used) {
    const std::vector<std::int32_t> tokens(kPrompt, 1);
    const std::vector<int> blocks = table(0, kPrompt), rows{kPrompt - 1};
    const models::Step::Sequence sequence{0, kPrompt, 0, blocks, used == 0 ? nullptr : adapters_.front()};
    return seconds({.tokens = tokens,
                    .sequences = std::span(&sequence, 1),
                    .logit_rows = rows,
                    .logits = std::span(logits_).first(static_cast<std::size_t>(model_.shape().vocabulary))});
  }
  static int blocks_needed() { return kSequences * of(kPosition + kPiece) + of(kPrompt); }

 private:
  static int of(int positions) { return (positions + models::kBlockTokens - 1) / models::kBlockTokens; }
  static std::vector<int> table(int sequence, int positions) {
    std::vector<int> blocks;
    for (int i = 0; i < of(positions); ++i) blocks.push_back(sequence * of(positions) + i);
    return blocks;
  }
  double seconds(const models::Step& step) {
    const auto begin = std::chrono::steady_clock::now();
    model_.forward(step, kv_);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  models::Model& model_;
  models::KvStore& kv_;
  std::vector<const models::Adapter*> adapters_;
  std::vector<float> logits_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string shape = argc > 1 ? argv[1] : "qwen2.5-0.5b", type = argc > 2 ? argv[2] : "Q4_0";
  const int rank = argc > 3 ? std::atoi(argv[3]) : 16, rounds = argc > 4 ? std::atoi(argv[4]) : 40;
  ThreadPool pool(argc > 5 ? std::atoi(argv[5]) : 0, /*pin=*/true);
  if (rank < 1 || rank > 256) return fail({Code::invalid, "a rank is 1 to 256"});
  auto loaded = models::random_model(shape, type, {}, pool);
  if (!loaded) return fail(loaded.error());
  models::Model& model = *loaded->model;
  const auto adapters = load_adapters(model, rank);
  if (!adapters) return fail(adapters.error());
  const auto kv = model.make_kv_store(Bench::blocks_needed(), models::KvType::bf16);
  if (!kv) return fail(kv.error());
  Bench bench(model, **kv, *adapters);

  double decoding[] = {1e9, 1e9, 1e9}, mixed[] = {1e9, 1e9, 1e9}, reading[] = {1e9, 1e9};
  const int used[] = {0, 1, kAdapters};
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < std::size(decoding); ++i) decoding[i] = std::min(decoding[i], bench.decode(used[i]));
    for (std::size_t i = 0; i < std::size(mixed) && round % 4 == 0; ++i)
      mixed[i] = std::min(mixed[i], bench.decode(used[i], kReading));
    if (round % 8 == 0)
      for (std::size_t i = 0; i < std::size(reading); ++i) reading[i] = std::min(reading[i], bench.prompt(used[i]));
  }
  fmt::print("{} {}, {} threads, {}; adapters of rank {}, {:.1f} MB each; tokens/s, ratio to the base model\n", shape,
             type, pool.size(), kernels::kernels().isa, rank,
             static_cast<double>(adapters->front()->bytes().count) / 1e6);
  const auto line = [](const std::string& name, int tokens, double seconds, double base) {
    fmt::print("{:<48}{:>9.1f}{:>8.3f}\n", name, tokens / seconds, base / seconds);
  };
  const auto name = [](int n) { return n == 0 ? "base model" : n == 1 ? "one adapter" : "eight adapters"; };
  for (std::size_t i = 0; i < std::size(decoding); ++i)
    line(fmt::format("{} sequences decode, {}", kSequences, name(used[i])), kSequences, decoding[i], decoding[0]);
  const int tokens = kSequences - kReading + kReading * kPiece;
  for (std::size_t i = 0; i < std::size(mixed); ++i)
    line(fmt::format("{} decode, {} read {} tokens, {}", kSequences - kReading, kReading, kPiece, name(used[i])),
         tokens, mixed[i], mixed[0]);
  for (std::size_t i = 0; i < std::size(reading); ++i)
    line(fmt::format("a prompt of {}, {}", kPrompt, name(used[i])), kPrompt, reading[i], reading[0]);
  return 0;
}
