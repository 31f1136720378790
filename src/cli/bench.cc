// ashlar bench: tokens per second of prefill and decode, beside what this
// machine's memory and arithmetic could do at most, measured in the same run.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <functional>
#include <random>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/direct.h"
#include "cli/flags.h"
#include "cli/terminal.h"
#include "kernels/kernels.h"
#include "kernels/probe.h"
#include "models/loader.h"
#include "models/shapes.h"

namespace ashlar::cli {
namespace {

using Seconds = std::chrono::duration<double>;

std::string shape_list() {
  std::string out;
  for (const std::string_view name : models::shape_names()) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

struct BenchOptions {
  std::string shape, type = "Q4_0", prompt = "512", generate = "128", batch = "1", isa, kv_type = "f16", write, vocabulary;
  int repeat = 5, threads = 0, chunk = 512;
  bool json = false;
  models::PackedCacheOptions packed_cache{.packed_cache = "off"};  // nothing is written while we measure
  void fields(auto&& field) {
    packed_cache.fields(field);
    field("shape", shape, "Random weights of a known shape in memory, no file needed: " + shape_list() + ".");
    field("type", type, "With --shape: the weights' type, e.g. Q4_0, Q8_0, Q4_K_M, BF16.");
    field("prompt", prompt, "Prompt lengths for prefill, e.g. 512,2048; 0: none.");
    field("generate", generate, "Tokens to decode, e.g. 128; 0: none.");
    field("batch", batch, "Sequences run together, e.g. 1,8,32.");
    field("repeat", repeat, "Runs of each test; the median is shown.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("chunk", chunk, "Most prompt tokens in one pass.");
    field("isa", isa, "Use the kernels of this instruction set instead of the best that this processor has.");
    field("kv_type", kv_type, "Keys and values as f16 or bf16.");
    field("write", write, "With --shape and --vocabulary: write the random model to this GGUF file and stop.");
    field("vocabulary", vocabulary, "With --write: a GGUF file whose tokenizer the new file gets.");
    field("json", json, "For a script.");
  }
};

struct Figures {
  double median = 0, min = 0, max = 0;
};

struct Test {
  std::string name;
  int batch = 1;
  Figures rate;
  double bandwidth_share = 0;  // of decode; 0: says nothing
  double peak_share = 0;       // of prefill
};

struct Subject {
  std::string name;
  models::ModelFacts facts;
  std::unique_ptr<models::Model> model;
};

struct Limits {
  double gigabytes_per_second = 0;
  double operations_per_second = 0;  // of the kind that this model's products use
};

Result<std::vector<int>> parse_list(std::string_view flag, std::string_view text, int least) {
  std::vector<int> out;
  while (!text.empty()) {
    const auto comma = std::min(text.find(','), text.size());
    int value = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + comma, value);
    if (failed != std::errc{} || end != text.data() + comma || value < 0 || value > 1'000'000)
      return Error{Code::invalid, fmt::format("--{}: '{}' is not a list of whole numbers such as 1,8", flag, text)};
    if (value >= least) out.push_back(value);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return out;
}

class Bench {
 public:
  Bench(models::Model& model, const BenchOptions& options, models::KvType kv) : model_(model), options_(options), kv_(kv) {}

  // Prefills `prompt` tokens of each of `batch` sequences, then decodes
  // `generate` of each together; the time of both.
  Result<Figures> measure(int batch, int prompt, int generate) {
    auto direct = TRY(Direct::create(model_, batch, prompt + generate + 1, kv_));
    std::vector<double> rates;
    for (int run = -1; run < options_.repeat; ++run) {  // the first warms up
      if (run < 0 && (prompt + generate) * batch > 4096) continue;
      for (int s = 0; s < batch; ++s) direct.forget(s);
      const auto start = std::chrono::steady_clock::now();
      if (prompt > 0) prefill(direct, batch, prompt);
      if (generate > 0) decode(direct, batch, generate);
      const double seconds = Seconds(std::chrono::steady_clock::now() - start).count();
      if (run >= 0) rates.push_back(static_cast<double>(batch) * (prompt + generate) / seconds);
    }
    std::ranges::sort(rates);
    return Figures{rates[rates.size() / 2], rates.front(), rates.back()};
  }

 private:
  std::vector<std::int32_t> random_tokens(int count) {
    std::uniform_int_distribution<std::int32_t> pick(0, model_.shape().vocabulary - 1);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
    for (auto& token : tokens) token = pick(random_);
    return tokens;
  }

  // As the engine would: passes of at most `chunk` rows, which short prompts share.
  void prefill(Direct& direct, int batch, int prompt) {
    std::vector<std::vector<std::int32_t>> prompts;
    for (int s = 0; s < batch; ++s) prompts.push_back(random_tokens(prompt));
    std::vector<int> done(static_cast<std::size_t>(batch));
    for (int s = 0; s < batch;) {
      std::vector<std::span<const std::int32_t>> chunks(static_cast<std::size_t>(batch));
      int left = options_.chunk;
      while (s < batch && left > 0) {
        const auto i = static_cast<std::size_t>(s);
        const int rows = std::min(left, prompt - done[i]);
        chunks[i] = std::span(prompts[i]).subspan(static_cast<std::size_t>(done[i]), static_cast<std::size_t>(rows));
        left -= rows;
        done[i] += rows;
        if (done[i] == prompt) ++s;
      }
      direct.pass_together(chunks, /*logits=*/s == batch);
    }
  }

  void decode(Direct& direct, int batch, int generate) {
    for (int step = 0; step < generate; ++step) direct.step(random_tokens(batch));
  }

  models::Model& model_;
  const BenchOptions& options_;
  models::KvType kv_;
  std::mt19937 random_{42};
};

std::string row_text(const Test& test) {
  std::string share;
  if (test.bandwidth_share > 0) share = fmt::format("{:.0f} % of the memory's bandwidth", 100 * test.bandwidth_share);
  if (test.peak_share > 0) share = fmt::format("{:.0f} % of the arithmetic's peak", 100 * test.peak_share);
  return fmt::format("  {:<14} {:>5} {:>10.1f} {:>10.1f} {:>10.1f}   {}", test.name, test.batch, test.rate.median, test.rate.min, test.rate.max, share);
}

// Each of a token's weights is one multiplication and one addition; decoding
// alone reads every one of them once.
Test finish(Test test, const Limits& limits, const models::Model& model, bool decodes, bool prefills) {
  if (decodes && !prefills && test.batch == 1)
    test.bandwidth_share = test.rate.median * static_cast<double>(model.work_per_token().bytes.count) / (limits.gigabytes_per_second * 1e9);
  if (prefills && !decodes)
    test.peak_share = test.rate.median * 2 * static_cast<double>(model.work_per_token().weights) / limits.operations_per_second;
  return test;
}

Result<std::vector<Test>> run_tests(const Subject& subject, const BenchOptions& options, const Limits& limits) {
  const auto prompts = TRY(parse_list("prompt", options.prompt, 1));
  const auto generates = TRY(parse_list("generate", options.generate, 1));
  const auto batches = TRY(parse_list("batch", options.batch, 1));
  if (options.repeat < 1 || options.chunk < 1) return Error{Code::invalid, "--repeat and --chunk are at least 1"};
  if (options.kv_type != "f16" && options.kv_type != "bf16") return Error{Code::invalid, "--kv-type is f16 or bf16"};
  Bench bench(*subject.model, options, options.kv_type == "f16" ? models::KvType::f16 : models::KvType::bf16);
  std::vector<Test> tests;
  const auto add = [&](std::string name, int batch, int prompt, int generate) -> Status {
    Test test{.name = std::move(name), .batch = batch, .rate = TRY(bench.measure(batch, prompt, generate))};
    tests.push_back(finish(std::move(test), limits, *subject.model, generate > 0, prompt > 0));
    if (!options.json) {
      fmt::print("{}\n", row_text(tests.back()));
      std::fflush(stdout);
    }
    return {};
  };
  for (const int batch : batches) {
    for (const int prompt : prompts) TRY(add(fmt::format("pp{}", prompt), batch, prompt, 0));
    for (const int generate : generates) TRY(add(fmt::format("tg{}", generate), batch, 0, generate));
    for (const int prompt : prompts)
      for (const int generate : generates) TRY(add(fmt::format("pp{}+tg{}", prompt, generate), batch, prompt, generate));
  }
  return tests;
}

Result<Subject> open_subject(const std::string& path, const BenchOptions& options, ThreadPool& pool) {
  if (path.empty() == options.shape.empty()) return Error{Code::invalid, "give either a MODEL file or --shape NAME"};
  auto loaded = path.empty() ? TRY(models::random_model(options.shape, options.type, {.max_rows = options.chunk}, pool))
                             : TRY(models::load(path, {.max_rows = options.chunk, .packed_cache = models::PackedCache::from(options.packed_cache)}, pool));
  if (loaded.model == nullptr) return Error{Code::invalid, fmt::format("{}: has a vocabulary but no weights", path)};
  return Subject{path.empty() ? options.shape + " " + options.type : loaded.facts.name, loaded.facts, std::move(loaded.model)};
}

Status bench_all(const std::string& path, const BenchOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  ThreadPool pool(options.threads, /*pin=*/true);
  if (!options.write.empty()) return models::write_random_model(options.shape, options.type, options.vocabulary, options.write, pool);
  const auto subject = TRY(open_subject(path, options, pool));
  const bool integers = subject.model->work_per_token().integers;
  const kernels::Peaks peaks = kernels::compute_peaks(pool);
  const Limits limits{TRY(kernels::read_bandwidth(pool)) / 1e9, (integers ? peaks.int8_tops : peaks.float_tflops) * 1e12};
  if (!options.json) {
    const Palette colour = palette(stdout);
    fmt::print("{}{}{}: {}, {} threads, {}\n", colour.bold, subject.name, colour.plain, to_string(subject.facts.bytes), pool.size(), kernels::kernels().isa);
    fmt::print("this machine now: reads {:.1f} GB/s, {} {:.2f} T operations/s\n\n  {:<14} {:>5} {:>10} {:>10} {:>10}\n",
               limits.gigabytes_per_second, integers ? "int8" : "f32", limits.operations_per_second / 1e12, "test", "batch", "tokens/s", "least", "most");
  }
  const auto tests = TRY(run_tests(subject, options, limits));
  if (!options.json) return {};
  Json rows = Json::array();
  for (const Test& test : tests) {
    Json row = {{"name", test.name}, {"batch", test.batch},
                {"tokens_per_second", {{"median", test.rate.median}, {"min", test.rate.min}, {"max", test.rate.max}}}};
    if (test.bandwidth_share > 0) row["bandwidth_share"] = test.bandwidth_share;
    if (test.peak_share > 0) row["peak_share"] = test.peak_share;
    rows.push_back(std::move(row));
  }
  fmt::print("{}\n", dump_json({{"model", subject.name}, {"bytes", subject.facts.bytes.count}, {"parameters", subject.facts.parameters},
                                {"isa", kernels::kernels().isa}, {"threads", pool.size()}, {"repeat", options.repeat},
                                {"machine", {{"read_bytes_per_second", limits.gigabytes_per_second * 1e9},
                                             {"operations_per_second", limits.operations_per_second},
                                             {"operations_kind", integers ? "int8" : "f32"}}},
                                {"tests", rows}}));
  return {};
}

}  // namespace

int bench(const Words& words) {
  std::string model;
  BenchOptions options;
  CommandLine line{.name = "bench",
                   .summary = "Prefill (ppN), decode (tgN) and both (ppN+tgN) in tokens per second, and their share of this machine's measured limits.",
                   .examples = "Examples:\n  ashlar bench model.gguf --prompt 512,2048 --batch 1,16\n  ashlar bench --shape llama-3.2-1b --type Q4_0",
                   .positionals = {{.name = "MODEL", .help = "A GGUF file.", .value = &model}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = bench_all(model, options); !done) return fail("bench", done.error());
  return 0;
}

}  // namespace ashlar::cli
