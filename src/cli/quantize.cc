// ashlar quantize: a smaller version of a model.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>

#include "base/json_full.h"
#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/interrupts.h"
#include "cli/quantize_file.h"
#include "cli/quantize_folder.h"
#include "cli/quantize_report.h"
#include "cli/stored_model.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

using models::TensorChange;

struct QuantizeOptions {
  std::string type, format, importance, method = "rtn", calibration, types, methods, text, scales;
  int bits = 0, group = 0;
  int window = 512, windows = 128;
  double damping = 0.01, outliers = 6;
  bool symmetric = false, asymmetric = false, act_order = false, resume = false;
  int threads = 0;
  bool force = false, allow_requantize = false, report = false, json = false;
  void fields(auto&& field) {
    field("type", type,
          fmt::format("What to write: {}; or of a compressed-tensors folder W4A16, W8A16, W8A8, F8_E4M3, F8_E5M2.",
                      fmt::join(models::mix_names(), ", ")));
    field("format", format,
          "Write gguf, the usual, or a Hugging Face folder as others read it: gptq, awq, compressed-tensors or "
          "bitsandbytes.");
    field("bits", bits, "Of a folder's weights: 4; gptq also 2, 3, 8, compressed-tensors 8.");
    field("group", group, "Of a folder: columns that share a scale, 32, 64, 128 (the usual), or -1 for all of a row.");
    field("symmetric", symmetric, "Of a folder: no zeros beside the scales; the usual of all but awq.");
    field("asymmetric", asymmetric, "Of a folder: zeros beside the scales; the usual of awq.");
    field("scales", scales, "Of F8_E4M3 and F8_E5M2: one for each channel (the usual), or one for each tensor.");
    field("outliers", outliers, "llm.int8: columns that meet inputs above this stay in 16 bits.");
    field("importance", importance,
          "Weigh errors by what `ashlar importance` measured (its file, or llama.cpp's imatrix).");
    field("method", method, "How to round: rtn, gptq, awq, smoothquant or llm.int8; all but rtn look at a text.");
    field("calibration", calibration,
          "The text file that the method looks at: one like those that the model will meet.");
    field("windows", windows, "Take at most so many windows, from all over that text.");
    field("window", window, "Tokens in a window.");
    field("damping", damping, "gptq: how much of the mean curvature is added everywhere.");
    field("act_order", act_order, "gptq: the columns that matter most first, on scales chosen beforehand.");
    field("resume", resume, "Go on where an interrupted run of the same command was.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("force", force,
          "Two things: overwrite what is there, and round to nearest a model of more than 6.7 billion parameters, "
          "which is refused otherwise.");
    field("allow_requantize", allow_requantize, "Let weights be rounded again that are quantized already.");
    field("report", report, "Size, perplexity, speed and worst layers by method and type, and what to take.");
    field("methods", methods,
          "Report on these methods, e.g. rtn,awq; otherwise on rtn, and gptq and awq where there is --calibration.");
    field("types", types, "Report on these types, e.g. Q4_0,Q4_K_M; otherwise on the usual ones of each method.");
    field("text", text,
          "Report the perplexity of this text; otherwise of the second half of --calibration, which no method sees "
          "then.");
    field("json", json, "For a script: the sizes and the type of each tensor, or the report.");
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

// The text that the method looks at; empty: it looks at none.
Result<std::optional<Windows>> read_calibration(const models::LoadedModel& model, models::Method method,
                                                const QuantizeOptions& options) {
  if (method == models::Method::rtn) return std::nullopt;
  if (options.calibration.empty())
    return Error{Code::invalid, fmt::format("--calibration: {} looks at a text, and none is given", options.method)};
  const std::string text = TRY(read_file(options.calibration, std::size_t{1} << 30));
  return std::optional(TRY(calibration_windows(model, text, options.calibration, options.window, options.windows)));
}

models::GptqOptions gptq_options(const QuantizeOptions& options) {
  return {.damping = static_cast<float>(options.damping), .activation_order = options.act_order};
}

std::string_view type_name(kernels::Type type) { return kernels::type_info(type).name; }

Result<Outcome> write_quantized(const std::string& in, const std::string& path, const models::Mix& mix,
                                const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome{.method = TRY(models::method_of(options.method))};
  auto file = TRY(models::open_file(in));
  outcome.model = TRY(models::open_model(std::move(file)));
  if (!options.importance.empty()) {
    outcome.importance = TRY(models::read_importance(options.importance));
    TRY(models::check_importance(*outcome.importance, outcome.model, options.importance));
  }
  if (outcome.method == models::Method::llm_int8)
    return Error{Code::invalid, "--method: llm.int8 makes bitsandbytes folders, not GGUF files"};
  const auto windows = TRY(read_calibration(outcome.model, outcome.method, options));
  const QuantizeJob job{.mix = &mix,
                        .method = outcome.method,
                        .importance = outcome.importance ? &*outcome.importance : nullptr,
                        .windows = windows ? &*windows : nullptr,
                        .gptq = gptq_options(options),
                        .resume = options.resume,
                        .replace = options.force,
                        .requantize = options.allow_requantize,
                        .large = options.force};
  ThreadPool pool(options.threads);
  outcome.plan = TRY(quantize_file(outcome.model, job, path, pool));
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

// What is asked for: a model, a report, or both.
struct Wanted {
  std::string in, out, report_file;
  const models::Mix* mix = nullptr;
  std::optional<models::FolderForm> form;  // instead: of a folder
};

Status write_folder(const Wanted& wanted, const QuantizeOptions& options) {
  auto file = TRY(models::open_file(wanted.in));
  const auto model = TRY(models::open_model(std::move(file)));
  const auto windows = TRY(read_calibration(model, wanted.form->method, options));
  const FolderJob job{.form = *wanted.form,
                      .windows = windows ? &*windows : nullptr,
                      .gptq = gptq_options(options),
                      .resume = options.resume,
                      .replace = options.force,
                      .large = options.force};
  ThreadPool pool(options.threads);
  const auto outcome = TRY(quantize_folder(model, wanted.in, job, wanted.out, pool));
  if (options.json)
    fmt::print("{}\n", dump_json(folder_json(outcome, wanted.out)));
  else
    fmt::print("{}", folder_text(outcome, wanted.out));
  return {};
}

Status write_text(const std::string& path, const std::string& text, bool replace) {
  auto file = TRY(models::NewFile::create(path, replace));
  TRY(file.write(text));
  return file.commit();
}

bool is_report(std::string_view path) { return path.ends_with(".svg") || path.ends_with(".json"); }

Status report(const Wanted& wanted, const QuantizeOptions& options) {
  // Refused now rather than when all is measured.
  const std::string& file = wanted.report_file;
  if (!file.empty() && !options.force && std::filesystem::exists(file))
    return Error{Code::invalid, fmt::format("{}: is there already; --force overwrites it", file)};
  auto source = TRY(models::open_file(wanted.in));
  const auto model = TRY(models::open_model(std::move(source)));
  ThreadPool pool(options.threads);
  const bool one = !options.type.empty();
  const ReportOptions what{
      .types = options.types,
      .methods = options.methods,
      .type = one ? options.type : "",
      .method = options.method,
      .text = options.text,
      .calibration = options.calibration,
      .folder = wanted.out.empty() ? "" : std::filesystem::absolute(wanted.out).parent_path().string(),
      .window = options.window,
      .windows = options.windows,
      .damping = options.damping,
      .act_order = options.act_order,
      .large = options.force};
  const auto measured = TRY(measure_report(model, what, pool));
  if (file.ends_with(".svg")) TRY(write_text(file, report_svg(measured), options.force));
  if (file.ends_with(".json")) TRY(write_text(file, dump_json(report_json(measured)) + "\n", options.force));
  fmt::print("{}", options.json ? dump_json(report_json(measured)) + "\n" : report_text(measured));
  return {};
}

std::optional<int> check_folder(Wanted& wanted, const QuantizeOptions& options, auto&& refuse) {
  if (options.report) return refuse("--report: compares formats with --types; leave --format and --type out");
  if (!options.importance.empty()) return refuse("--importance: is of GGUF types");
  const auto method = models::method_of(options.method);
  if (!method) return refuse(method.error().message);
  auto form = models::form_of({.format = options.format == "gguf" ? "" : options.format,
                               .type = options.type,
                               .scales = options.scales,
                               .method = *method,
                               .bits = options.bits,
                               .group = options.group,
                               .symmetric = options.symmetric,
                               .asymmetric = options.asymmetric});
  if (!form) return refuse(form.error().message);
  form->outliers = static_cast<float>(options.outliers);
  form->damping = static_cast<float>(options.damping);
  if (!(form->outliers >= 0)) return refuse("--outliers: at least 0 is expected");
  wanted.form = *form;
  return std::nullopt;
}

// nullopt: go on; else the exit status, the error having been printed.
std::optional<int> check(Wanted& wanted, QuantizeOptions& options) {
  const auto refuse = [](const std::string& said) {
    fmt::print(stderr, "ashlar quantize: {}\nTry `ashlar quantize --help`.\n", said);
    return 2;
  };
  if (wanted.report_file.empty() && is_report(wanted.out)) std::swap(wanted.report_file, wanted.out);
  if (!wanted.report_file.empty() && !options.report) return refuse("a .svg or .json file is written with --report");
  if (!wanted.report_file.empty() && !is_report(wanted.report_file))
    return refuse(fmt::format("{}: a report is written as .svg or .json", wanted.report_file));
  if (wanted.out.empty() && !options.report) return refuse("OUT is needed");
  const bool folder = (!options.format.empty() && options.format != "gguf") || models::is_folder_type(options.type) ||
                      (options.method == "llm.int8" && options.format.empty());
  if (folder) return check_folder(wanted, options, refuse);
  if (options.bits != 0 || options.group != 0 || options.symmetric || options.asymmetric || !options.scales.empty())
    return refuse("--bits, --group, --symmetric, --asymmetric and --scales are of folders: name a --format");
  wanted.mix = models::find_mix(options.type);
  if (wanted.mix == nullptr && (!wanted.out.empty() || !options.type.empty()))
    return refuse(
        fmt::format("--type: {}; known are {}",
                    options.type.empty() ? "is needed" : "no type is called " + models::gguf::quoted(options.type),
                    fmt::join(models::mix_names(), ", ")));
  return std::nullopt;
}

Status work(Wanted& wanted, const QuantizeOptions& options) {
  wanted.in = TRY(find_model(wanted.in));
  if (wanted.form) return write_folder(wanted, options);
  if (!wanted.out.empty()) {
    const auto outcome = TRY(write_quantized(wanted.in, wanted.out, *wanted.mix, options));
    if (!options.json)
      print_outcome(outcome, wanted.out);
    else if (!options.report)
      fmt::print("{}\n", dump_json(as_json(outcome, wanted.out)));
  }
  return options.report ? report(wanted, options) : Status{};
}

constexpr char kExamples[] =
    "Each block of weights is rounded to nearest by itself (RTN). Q8_0 is hardly told from the original; Q4_K_M is "
    "the\n"
    "usual choice, Q6_K and Q5_K_M lie between; below 4 bits the loss shows. A name that ends in _S, _M or _L is a "
    "mix: the\n"
    "tensors that matter most get more bits. Vectors and norms stay F32.\n"
    "  ashlar quantize model-BF16.gguf model-Q4_K_M.gguf --type Q4_K_M\n"
    "  ashlar quantize FOLDER SMALLER --format gptq --bits 4 --method gptq --calibration text.txt\n"
    "  ashlar quantize FOLDER SMALLER --type W8A8 --method smoothquant --calibration text.txt\n"
    "  ashlar quantize FOLDER SMALLER --type F8_E4M3                             folders, as vLLM and others read "
    "them\n"
    "  ashlar quantize model-BF16.gguf --report --calibration text.txt           what each method and type would cost\n"
    "  ashlar quantize model-BF16.gguf report.svg --report --text held-out.txt   the same as a picture, of rtn alone\n"
    "OUT appears when it is whole: a failure or Ctrl-C leaves nothing behind. A report makes its versions beside OUT, "
    "or\n"
    "where temporary files go (TMPDIR), one at a time, and removes them.";

}  // namespace

int quantize(const Words& words) {
  Wanted wanted;
  QuantizeOptions options;
  CommandLine line{
      .name = "quantize",
      .summary =
          "Write a smaller version of a model, or report what that costs: weights of fewer bits take less memory and\n"
          "are read faster, and cost some of the quality.",
      .examples = kExamples,
      .positionals = {{.name = "IN",
                       .help = "A GGUF file (of a split one, any part), a Hugging Face folder, or the name of a pulled model.",
                       .value = &wanted.in,
                       .required = true},
                      {.name = "OUT",
                       .help = "The GGUF file or the folder to write; a report needs none.",
                       .value = &wanted.out},
                      {.name = "FILE",
                       .help = "With --report: a .svg picture or .json file to write.",
                       .value = &wanted.report_file}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto status = check(wanted, options)) return *status;
  catch_interrupts();
  if (const auto done = work(wanted, options); !done) {
    const int status = fail("quantize", done.error());
    return done.error().code == Code::cancelled ? kInterrupted : status;
  }
  return 0;
}

}  // namespace ashlar::cli
