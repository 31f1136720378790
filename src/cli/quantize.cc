// ashlar quantize: a smaller version of a model.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>

#include "base/json_full.h"
#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/interrupts.h"
#include "cli/terminal.h"
#include "models/quantize.h"
#include "models/quantizers/calibrated.h"

namespace ashlar::cli {
namespace {

using models::TensorChange;

struct QuantizeOptions {
  std::string type, importance, method = "rtn", calibration;
  int window = 512, windows = 128;
  double damping = 0.01;
  bool act_order = false, resume = false;
  int threads = 0;
  bool force = false, allow_requantize = false, force_rtn = false, json = false;
  void fields(auto&& field) {
    field("type", type, "What to write: " + fmt::format("{}.", fmt::join(models::mix_names(), ", ")));
    field("importance", importance, "Weigh errors by what `ashlar importance` measured (its file, or llama.cpp's imatrix).");
    field("method", method, "How to round: rtn, gptq, awq or smoothquant; all but rtn look at a text.");
    field("calibration", calibration, "The text file that the method looks at: one like those that the model will meet.");
    field("windows", windows, "Take at most so many windows, from all over that text.");
    field("window", window, "Tokens in a window.");
    field("damping", damping, "gptq: how much of the mean curvature is added everywhere.");
    field("act_order", act_order, "gptq: the columns that matter most first, on scales chosen beforehand.");
    field("resume", resume, "Go on where an interrupted run of the same command was.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("force", force, "Overwrite OUT if it is there, and round to nearest above 6.7 billion parameters too.");
    field("allow_requantize", allow_requantize, "Let weights be rounded again that are quantized already.");
    field("force_rtn", force_rtn, "The latter alone.");
    field("json", json, "For a script: the sizes, and the type of each tensor.");
  }
};

struct Outcome {
  models::LoadedModel model;
  std::optional<models::Importance> importance;
  models::QuantizePlan plan;
  models::Method method = models::Method::rtn;
  std::uint64_t bytes = 0;  // of the new file
  int threads = 0;
  double seconds = 0;

  double bits_per_weight() const {
    return 8 * static_cast<double>(plan.bytes()) / static_cast<double>(model.facts.parameters);
  }
};

std::string_view type_name(kernels::Type type) { return kernels::type_info(type).name; }

// What plan_quantize() refuses, with the flag that allows it.
Result<models::QuantizePlan> make_plan(const models::LoadedModel& model, const models::Importance* importance,
                                       const models::Mix& mix, const QuantizeOptions& options) {
  const models::QuantizeLimits normal;
  models::QuantizeLimits limits{.requantize = options.allow_requantize, .importance = importance};
  const bool large = kernels::type_info(mix.type).block > 1 && model.facts.parameters > normal.rtn_parameters;
  if (options.force_rtn || options.force) limits.rtn_parameters = std::numeric_limits<std::int64_t>::max();
  auto plan = models::plan_quantize(model, mix, limits);
  if (plan) {
    if (large)
      fmt::print(stderr, "warning: a model of more than 6.7 billion parameters is rounded to nearest; compare `ashlar perplexity` "
                         "before and after\n");
    return plan;
  }
  Error error = plan.error();
  if (error.code == Code::too_large) error.message += "; --force does it all the same";
  if (error.code == Code::invalid) error.message += "; --allow-requantize does it all the same";
  return error;
}

// Layer by layer; what is done stays in `folder` for --resume.
Result<models::MadeLayers> make_calibrated(Outcome& outcome, models::Method method, const std::string& folder,
                                           const QuantizeOptions& options, ThreadPool& pool) {
  constexpr std::int64_t kMostActivations = 256 << 20;  // bytes
  constexpr int kLeastWindows = 4;
  const models::LoadedModel& model = outcome.model;
  if (options.calibration.empty())
    return Error{Code::invalid, fmt::format("--calibration: {} looks at a text, and none is given", options.method)};
  const std::int64_t room = kMostActivations / (std::int64_t{4} * model.shape.width * std::max(options.window, 1));
  const auto windows = TRY(read_windows(model, options.calibration, options.window, kLeastWindows,
                                        static_cast<int>(std::clamp<std::int64_t>(options.windows, 1, std::max<std::int64_t>(room, kLeastWindows)))));
  const models::Calibration calibration{
      .method = method,
      .tokens = windows.tokens,
      .window = windows.window,
      .gptq = {.damping = static_cast<float>(options.damping), .activation_order = options.act_order},
      .folder = folder,
      .resume = options.resume};
  constexpr std::int64_t kSteps = 1000;
  Progress progress(options.method, kSteps);
  auto layers = models::make_layers(model, outcome.plan, calibration, pool, [&](double done, int layer) -> Status {
    if (interrupted()) return Error{Code::cancelled, "interrupted; --resume goes on from here"};
    progress.at(static_cast<std::int64_t>(done * kSteps), fmt::format("layer {} of {}", layer + 1, model.shape.layers));
    return {};
  });
  const bool resumable = !layers && layers.error().code == Code::cancelled;
  if (!layers && !resumable) models::remove_layers(folder, model.shape.layers);
  return layers;
}

Result<Outcome> write_quantized(const std::string& in, const std::string& path, const models::Mix& mix,
                                const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome;
  auto file = TRY(models::open_file(in));
  outcome.model = TRY(models::open_model(std::move(file)));
  if (!options.importance.empty()) {
    outcome.importance = TRY(models::read_importance(options.importance));
    TRY(models::check_importance(*outcome.importance, outcome.model, options.importance));
  }
  const models::Method method = TRY(models::method_of(options.method));
  outcome.method = method;
  outcome.plan = TRY(make_plan(outcome.model, outcome.importance ? &*outcome.importance : nullptr, mix, options));
  auto out = models::NewFile::create(path, options.force);
  if (!out) {
    Error error = out.error();
    if (!options.force && std::filesystem::is_regular_file(path)) error.message += "; --force overwrites it";
    return error;
  }
  ThreadPool pool(options.threads);
  models::MadeLayers layers;
  const std::string folder = path + ".layers";
  if (method != models::Method::rtn) layers = TRY(make_calibrated(outcome, method, folder, options, pool));
  Progress progress("quantizing", outcome.model.facts.parameters);
  const auto watch = [&](std::int64_t done, std::string_view tensor) -> Status {
    if (interrupted()) return Error{Code::cancelled, "interrupted; nothing has been written"};
    progress.at(done, tensor);
    return {};
  };
  TRY(models::quantize(outcome.model, outcome.plan, pool, watch, *out));
  TRY(out->commit());
  if (!layers.empty()) models::remove_layers(folder, outcome.model.shape.layers);
  std::error_code unknown;
  outcome.bytes = std::filesystem::file_size(path, unknown);
  outcome.threads = pool.size();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

Json as_json(const Outcome& outcome, const std::string& path) {
  Json tensors = Json::array();
  for (const TensorChange& change : outcome.plan.tensors) {
    Json tensor = {{"name", change.tensor->name},
                   {"elements", change.tensor->elements()},
                   {"from", type_name(change.tensor->type)},
                   {"type", type_name(change.type)},
                   {"bytes", change.bytes()}};
    if (change.wanted) tensor["instead_of"] = type_name(*change.wanted);
    tensors.push_back(std::move(tensor));
  }
  return {{"path", path},
          {"type", outcome.plan.mix->name},
          {"method", models::name_of(outcome.method)},
          {"parameters", outcome.model.facts.parameters},
          {"bytes_before", outcome.model.file->bytes()},
          {"bytes", outcome.bytes},
          {"bits_per_weight", outcome.bits_per_weight()},
          {"threads", outcome.threads},
          {"seconds", outcome.seconds},
          {"tensors", tensors}};
}

void print_outcome(const Outcome& outcome, const std::string& path) {
  const Palette colour = palette(stdout);
  fmt::print("{}{}{}: {}, {} instead of {}, {:.2f} bits per weight, in {:.1f} s\n", colour.bold, path, colour.plain,
             outcome.plan.mix->name, to_string(Bytes{outcome.bytes}), to_string(Bytes{outcome.model.file->bytes()}),
             outcome.bits_per_weight(), outcome.seconds);
  struct Sum {
    int tensors = 0;
    Bytes bytes;
  };
  std::map<std::string_view, Sum> types;
  std::map<std::pair<std::string_view, std::string_view>, int> instead;  // wanted, given
  for (const TensorChange& change : outcome.plan.tensors) {
    Sum& sum = types[type_name(change.type)];
    ++sum.tensors;
    sum.bytes.count += change.bytes();
    if (change.wanted) ++instead[{type_name(*change.wanted), type_name(change.type)}];
  }
  for (const auto& [type, sum] : types)
    fmt::print("  {:<7} {:>5} tensors, {}\n", type, sum.tensors, to_string(sum.bytes));
  for (const auto& [pair, count] : instead)
    fmt::print("  {}{} tensors are {} instead of {}, whose blocks their rows do not fill{}\n", colour.yellow, count,
               pair.second, pair.first, colour.plain);
}

}  // namespace

int quantize(const Words& words) {
  std::string in, out;
  QuantizeOptions options;
  CommandLine line{
      .name = "quantize",
      .summary = "Write a smaller version of a model: weights of fewer bits take less memory and are read faster, and\n"
                 "cost some of the quality.",
      .examples =
          "Each block of weights is rounded to nearest by itself (RTN). Q8_0 is hardly told from the original; Q4_K_M is the\n"
          "usual choice, Q6_K and Q5_K_M lie between; below 4 bits the loss shows. A name that ends in _S, _M or _L is a mix: the\n"
          "tensors that matter most get more bits. Vectors and norms stay F32.\n"
          "  ashlar quantize model-BF16.gguf model-Q4_K_M.gguf --type Q4_K_M\n"
          "  ashlar perplexity model-BF16.gguf text.txt        what it costs: the same text before ...\n"
          "  ashlar perplexity model-Q4_K_M.gguf text.txt      ... and after\n"
          "OUT appears when it is whole: a failure or Ctrl-C leaves nothing behind.",
      .positionals = {{.name = "IN", .help = "A GGUF file (of a split one, any part), or a Hugging Face folder.", .value = &in, .required = true},
                      {.name = "OUT", .help = "The GGUF file to write.", .value = &out, .required = true}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  const models::Mix* mix = models::find_mix(options.type);
  if (mix == nullptr) {
    fmt::print(stderr, "ashlar quantize: --type: {}; known are {}\nTry `ashlar quantize --help`.\n",
               options.type.empty() ? "is needed" : "no type is called " + models::gguf::quoted(options.type),
               fmt::join(models::mix_names(), ", "));
    return 2;
  }
  catch_interrupts();
  const auto outcome = write_quantized(in, out, *mix, options);
  if (!outcome) {
    const int status = fail("quantize", outcome.error());
    return outcome.error().code == Code::cancelled ? kInterrupted : status;
  }
  if (options.json)
    fmt::print("{}\n", dump_json(as_json(*outcome, out)));
  else
    print_outcome(*outcome, out);
  return 0;
}

}  // namespace ashlar::cli
