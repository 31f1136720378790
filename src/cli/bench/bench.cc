// ashlar bench: tokens per second of prefill and decode, beside what this
// machine's memory and arithmetic could do at most, measured in the same run.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/json_full.h"
#include "cli/bench/limits.h"
#include "cli/bench/report.h"
#include "cli/bench/runner.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"
#include "kernels/kernels.h"
#include "models/loader.h"
#include "models/shapes.h"

namespace ashlar::cli {
namespace {

std::string shape_list() {
  std::string out;
  for (const std::string_view name : models::shape_names()) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

struct BenchOptions {
  std::string shape, type = "Q4_0", prompt = "512", generate = "128", batch = "1", depth = "0", isa, kv_type = "auto",
                     write, vocabulary;
  int shared_prefix = 0, repeat = 5, threads = 0, chunk = 512;
  bool profile = false, json = false;
  models::PackedCacheOptions packed_cache{.packed_cache = "off"};  // nothing is written while we measure
  void fields(auto&& field) {
    packed_cache.fields(field);
    field("shape", shape, "Random weights of a known shape in memory, no file needed: " + shape_list() + ".");
    field("type", type, "With --shape: the weights' type, e.g. Q4_0, Q8_0, Q4_K_M, BF16.");
    field("prompt", prompt, "Prompt lengths for prefill, e.g. 512,2048; 0: none.");
    field("generate", generate, "Tokens to decode, e.g. 128; 0: none.");
    field("batch", batch,
          "Sequences run together, e.g. 1,8,32. More than one: each gets its prompt, then all decode, and the total is "
          "shown.");
    field("depth", depth,
          "Tokens that each sequence holds already when a test begins, e.g. 0,4096; their computing is not timed.");
    field("shared_prefix", shared_prefix,
          "Instead of prompts of their own, the sequences share one prompt of this many tokens, computed and stored "
          "once.");
    field("repeat", repeat,
          "Runs of each test; the median is shown. Up to three times as many where others disturb them.");
    field("profile", profile, "One more run of each test, with the time of each kind of operation in each layer.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("chunk", chunk, "Most prompt tokens in one pass.");
    field("isa", isa, "Use the kernels of this instruction set instead of the best that this processor has.");
    field("kv_type", kv_type, "Keys and values as f16, bf16, int8 or auto.");
    field("write", write, "With --shape and --vocabulary: write the random model to this GGUF file and stop.");
    field("vocabulary", vocabulary, "With --write: a GGUF file whose tokenizer the new file gets.");
    field("json", json, "For a script.");
  }
};

constexpr char kExamples[] =
    "Examples:\n"
    "  ashlar bench model.gguf --prompt 512,2048 --depth 0,4096\n"
    "  ashlar bench model.gguf --batch 1,16 --prompt 128 --generate 32\n"
    "  ashlar bench model.gguf --batch 16 --shared-prefix 512 --generate 32\n"
    "  ashlar bench --shape llama-3.2-1b --type Q4_0 --profile --generate 0\n"
    "\n"
    "Shares: reads of memory and arithmetic in registers are measured first. A step of decode cannot be faster than "
    "reading the\n"
    "weights once and every sequence's keys and values (a shared prefix once for all), nor than its arithmetic; a "
    "prefill not faster\n"
    "than its arithmetic. The share is the figure beside the nearer of the two limits.\n"
    "Disturbed: a run in which others had more than 2 % of the cores is run again; if too few were undisturbed, the "
    "row says so.\n"
    "pp512: prefill of 512 tokens. tg128: decode of 128. pp128+tg32: both, all tokens by the whole time, and each "
    "below.";

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

// One sequence: prefill and decode by themselves. More: prompts and then decode in one test.
void add_tests(std::vector<Test>& tests, int batch, int depth, const std::vector<int>& prompts,
               const std::vector<int>& generates) {
  if (batch > 1 && !prompts.empty() && !generates.empty()) {
    for (const int prompt : prompts)
      for (const int generate : generates)
        tests.push_back({.batch = batch, .depth = depth, .prompt = prompt, .generate = generate});
    return;
  }
  for (const int prompt : prompts) tests.push_back({.batch = batch, .depth = depth, .prompt = prompt});
  for (const int generate : generates) tests.push_back({.batch = batch, .depth = depth, .generate = generate});
}

Result<std::vector<Test>> list_tests(const BenchOptions& options) {
  const auto prompts = TRY(parse_list("prompt", options.prompt, 1));
  const auto generates = TRY(parse_list("generate", options.generate, 1));
  const auto batches = TRY(parse_list("batch", options.batch, 1));
  const auto depths = TRY(parse_list("depth", options.depth, 0));
  const bool shares = options.shared_prefix != 0;
  if (options.shared_prefix < 0 || options.shared_prefix > 1'000'000)
    return Error{Code::invalid, "--shared-prefix is a number of tokens"};
  if (shares && options.depth != "0") return Error{Code::invalid, "give either --shared-prefix or --depth"};
  std::vector<Test> tests;
  for (const int batch : batches) {
    if (shares && generates.empty()) tests.push_back({.batch = batch, .shared = options.shared_prefix});
    if (shares)
      for (const int generate : generates)
        tests.push_back({.batch = batch, .generate = generate, .shared = options.shared_prefix});
    else
      for (const int depth : depths) add_tests(tests, batch, depth, prompts, generates);
  }
  for (const Test& test : tests)
    if (static_cast<std::int64_t>(test.batch) * test.tokens_each() > 100'000'000)
      return Error{Code::invalid,
                   fmt::format("{} with {} sequences: more tokens than can be kept", test.name(), test.batch)};
  return tests;
}

struct Subject {
  std::string name;
  models::ModelFacts facts;
  std::unique_ptr<models::Model> model;
};

Result<Subject> open_subject(const std::string& named, const BenchOptions& options, ThreadPool& pool) {
  if (named.empty() == options.shape.empty()) return Error{Code::invalid, "give either a MODEL or --shape NAME"};
  const std::string path = named.empty() ? named : TRY(find_model(named));
  auto loaded =
      path.empty()
          ? TRY(models::random_model(options.shape, options.type, {.max_rows = options.chunk}, pool))
          : TRY(models::load(
                path, {.max_rows = options.chunk, .packed_cache = models::PackedCache::from(options.packed_cache)},
                pool));
  if (loaded.model == nullptr) return Error{Code::invalid, fmt::format("{}: holds no weights of a model that generates", path)};
  return Subject{path.empty() ? options.shape + " " + options.type : loaded.facts.name, loaded.facts,
                 std::move(loaded.model)};
}

std::string header_text(const Subject& subject, const Limits& machine, const ThreadPool& pool) {
  const Palette colour = palette(stdout);
  std::string text =
      fmt::format("{}{}{}: {}, {} threads, {}\nthis machine now: {}\n", colour.bold, subject.name, colour.plain,
                  to_string(subject.facts.bytes), pool.size(), kernels::kernels().isa, limits_text(machine));
  return text + "\n" + table_head();
}

Json document(const Subject& subject, const Limits& machine, const Limits& after, const ThreadPool& pool,
              const BenchOptions& options, Json rows) {
  Json json = {{"model", subject.name},
               {"bytes", subject.facts.bytes.count},
               {"parameters", subject.facts.parameters},
               {"isa", kernels::kernels().isa},
               {"threads", pool.size()},
               {"repeat", options.repeat},
               {"kv_type", options.kv_type},
               {"machine", to_json(machine)},
               {"machine_after", to_json(after)},
               {"tests", std::move(rows)}};
  return json;
}

void show(const Report& report) {
  const Palette colour = palette(stdout);
  const std::string name = report.outcome.test.name();
  fmt::print("{}", rows_text(report, colour));
  if (report.outcome.prefill) fmt::print("\n{}", profile_text(name + ", prefill", *report.outcome.prefill));
  if (report.outcome.decode) fmt::print("\n{}\n", profile_text(name + ", decode", *report.outcome.decode));
  std::fflush(stdout);
}

Status bench_all(const std::string& path, const BenchOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  ThreadPool pool(options.threads, /*pin=*/true);
  if (!options.write.empty())
    return models::write_random_model(options.shape, options.type, options.vocabulary, options.write, pool);
  if (options.repeat < 1 || options.chunk < 1) return Error{Code::invalid, "--repeat and --chunk are at least 1"};
  const models::KvType kv = TRY(models::kv_type_of(options.kv_type));
  const auto tests = TRY(list_tests(options));
  const auto subject = TRY(open_subject(path, options, pool));
  const auto machine = TRY(measure_limits(*subject.model, pool));
  if (!options.json) fmt::print("{}", header_text(subject, machine, pool));
  Runner runner(*subject.model,
                {.kv = kv, .repeat = options.repeat, .chunk = options.chunk, .profile = options.profile});
  Json rows = Json::array();
  for (const Test& test : tests) {
    const Report report = report_on(TRY(runner.run(test)), *subject.model, machine, kv, options.chunk);
    if (options.json)
      rows.push_back(to_json(report));
    else
      show(report);
  }
  const auto after = TRY(measure_limits(*subject.model, pool));
  if (options.json)
    fmt::print("{}\n", dump_json(document(subject, machine, after, pool, options, std::move(rows))));
  else
    fmt::print("\nand after the tests: {}\n", limits_text(after));
  return {};
}

}  // namespace

int bench(const Words& words) {
  std::string model;
  BenchOptions options;
  CommandLine line{
      .name = "bench",
      .summary = "Prefill and decode in tokens per second, and their share of this machine's measured limits.",
      .examples = kExamples,
      .positionals = {{.name = "MODEL", .help = "A GGUF file, a Hugging Face folder, or the name of a pulled model.", .value = &model}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = bench_all(model, options); !done) return fail("bench", done.error());
  return 0;
}

}  // namespace ashlar::cli
