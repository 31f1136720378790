#include "cli/quantize_report.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "cli/bench/runner.h"
#include "cli/interrupts.h"
#include "cli/quantize_file.h"
#include "cli/quantize_folder.h"
#include "cli/scoring.h"
#include "cli/terminal.h"
#include "kernels/kernels.h"
#include "models/quantizers/layer_errors.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;
using models::Method;

constexpr std::string_view kRoundedTypes[] = {"Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S",
                                              "Q4_1", "Q4_0", "Q3_K_M", "Q2_K"};
constexpr std::string_view kCalibratedTypes[] = {"Q4_K_S", "Q4_1"};
constexpr int kDecoded = 32, kDecodeRuns = 3;
constexpr int kWindowsForErrors = 4;
constexpr std::size_t kWorst = 3;

struct Version {
  Method method;
  const models::Mix* mix = nullptr;  // of a GGUF file, or
  models::FolderForm form;           // of a folder
  std::string type;                  // "Q4_K_M", "W8A8"
  std::string name() const { return fmt::format("{} {}", models::name_of(method), type); }
  bool operator==(const Version& other) const { return method == other.method && type == other.type; }
};

std::vector<std::string_view> split(std::string_view list) {
  std::vector<std::string_view> out;
  while (!list.empty()) {
    const auto comma = std::min(list.find(','), list.size());
    if (comma > 0) out.push_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return out;
}

Result<Version> find_version(std::string_view method, std::string_view type, const ReportOptions& options) {
  const Method found = TRY(models::method_of(method));
  if (found != Method::rtn && options.calibration.empty())
    return Error{Code::invalid, fmt::format("--calibration: {} looks at a text, and none is given", method)};
  if (found == Method::llm_int8)
    return Version{.method = found, .form = TRY(models::form_of({.method = found})), .type = "INT8"};
  if (models::is_folder_type(type)) {
    const auto form = TRY(models::form_of({.type = std::string(type), .method = found}));
    return Version{.method = found, .form = form, .type = std::string(type)};
  }
  const models::Mix* mix = models::find_mix(type);
  if (mix == nullptr)
    return Error{Code::invalid,
                 fmt::format("--types: no type is called {}; known are {}, and of folders W4A16, W8A16, W8A8, F8_E4M3, "
                             "F8_E5M2",
                             models::gguf::quoted(type), fmt::join(models::mix_names(), ", "))};
  return Version{.method = found, .mix = mix, .type = std::string(mix->name)};
}

// `folder`: of a model that lies in one, from which others can be made.
std::vector<std::string_view> usual_types(std::string_view method, bool folder) {
  std::vector<std::string_view> out;
  if (method == "rtn")
    out.assign(std::begin(kRoundedTypes), std::end(kRoundedTypes));
  else if (method == "smoothquant")
    out = {"Q8_0"};
  else if (method == "llm.int8")
    out = {"INT8"};
  else
    out.assign(std::begin(kCalibratedTypes), std::end(kCalibratedTypes));
  if (!folder || method == "llm.int8") return out;
  if (method == "rtn") out.insert(out.end(), {"W8A8", "F8_E4M3"});
  out.push_back(method == "smoothquant" ? "W8A8" : "W4A16");
  return out;
}

// Folders that a method does not make become notes.
Result<std::vector<Version>> list_versions(const ReportOptions& options, bool folder, std::vector<std::string>& notes) {
  std::vector<std::string_view> methods = split(options.methods);
  if (methods.empty()) methods = {"rtn"};
  if (options.methods.empty() && !options.calibration.empty()) methods = {"rtn", "gptq", "awq"};
  std::vector<Version> out;
  const auto add = [&](std::string_view method, std::string_view type) -> Status {
    if (models::is_folder_type(type))
      if (const auto form = models::form_of({.type = std::string(type), .method = TRY(models::method_of(method))});
          !form) {
        notes.push_back(form.error().message);
        return {};
      }
    const Version version = TRY(find_version(method, type, options));
    if (std::ranges::find(out, version) == out.end()) out.push_back(version);
    return {};
  };
  for (const std::string_view method : methods)
    for (const std::string_view type : options.types.empty() ? usual_types(method, folder) : split(options.types))
      TRY(add(method, type));
  if (!options.type.empty()) TRY(add(options.method, options.type));
  return out;
}

// A folder of our own that goes with all that is in it.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create(const std::string& within) {
    std::string path = (fs::path(within) / "ashlar-report-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr)
      return Error{Code::io, fmt::format("{}: no folder can be made there: {}", within, std::strerror(errno))};
    return TemporaryFolder(std::move(path));
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code unknown;
    if (!path_.empty()) fs::remove_all(path_, unknown);
  }
  std::string file(std::string_view name) const { return (fs::path(path_) / name).string(); }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

struct Texts {
  Windows scored;
  std::optional<Windows> seen;  // by methods that look at a text
  std::string name;             // of what is scored
};

Result<Texts> read_texts(const models::LoadedModel& model, const ReportOptions& options) {
  constexpr std::size_t kMost = std::size_t{1} << 30;
  if (options.text.empty() && options.calibration.empty())
    return Error{Code::invalid,
                 "--report: give a text to score with --text, or one whose second half is scored with --calibration"};
  std::string calibration, held_out;
  if (!options.calibration.empty()) calibration = TRY(read_file(options.calibration, kMost));
  if (!options.text.empty()) held_out = TRY(read_file(options.text, kMost));
  const auto [first, second] = halves(calibration);
  const bool whole = !options.text.empty();
  Texts out{.name = whole ? options.text : "the second half of " + options.calibration};
  out.scored = TRY(cut_windows(model, whole ? std::string_view(held_out) : second, out.name, options.window, 1,
                               std::max(options.windows, 1)));
  if (!options.calibration.empty())
    out.seen = TRY(calibration_windows(model, whole ? std::string_view(calibration) : first,
                                       whole ? options.calibration : "the first half of " + options.calibration,
                                       options.window, options.windows));
  return out;
}

// Measures one model after another.
class Reporter {
 public:
  Reporter(const models::LoadedModel& model, const ReportOptions& options, const Texts& texts, ThreadPool& pool)
      : model_(model), options_(options), texts_(texts), pool_(pool) {}

  Result<ReportRow> original() {
    ReportRow row{.type = model_.facts.file_type, .bytes = model_.facts.bytes.count};
    std::uint64_t bytes = 0;
    for (const auto& tensor : model_.file->tensors()) bytes += tensor.data.size();
    row.bits = bits_of(bytes > 0 ? bytes : row.bytes);
    TRY(measure(model_.file->path(), "as it is", row));
    perplexity_ = row.perplexity;
    return row;
  }

  Result<ReportRow> version(const Version& version, const std::string& path) {
    ReportRow row{.method = std::string(models::name_of(version.method)), .type = version.type};
    TRY(version.mix != nullptr ? make_file(version, path, row) : make_folder(version, path, row));
    TRY(measure(path, version.name(), row));
    row.change = 100 * (row.perplexity / perplexity_ - 1);
    TRY(find_worst(path, version.name(), row));
    std::error_code unknown;
    fs::remove_all(path, unknown);
    return row;
  }

 private:
  models::GptqOptions gptq() const {
    return {.damping = static_cast<float>(options_.damping), .activation_order = options_.act_order};
  }

  Status make_folder(const Version& version, const std::string& path, ReportRow& row) {
    const FolderJob job{.form = version.form,
                        .windows = texts_.seen ? &*texts_.seen : nullptr,
                        .gptq = gptq(),
                        .replace = true,
                        .large = options_.large};
    const auto made = TRY(quantize_folder(model_, model_.file->path(), job, path, pool_));
    row.bytes = made.bytes;
    row.bits = bits_of(made.bytes);
    return {};
  }

  Status make_file(const Version& version, const std::string& path, ReportRow& row) {
    const QuantizeJob job{.mix = version.mix,
                          .method = version.method,
                          .windows = texts_.seen ? &*texts_.seen : nullptr,
                          .gptq = gptq(),
                          .replace = true,
                          .requantize = true,
                          .large = options_.large};
    const auto plan = TRY(quantize_file(model_, job, path, pool_));
    std::error_code unknown;
    row.bytes = fs::file_size(path, unknown);
    row.bits = bits_of(plan.bytes());
    return {};
  }

  double bits_of(std::uint64_t bytes) const {
    return 8 * static_cast<double>(bytes) / static_cast<double>(model_.facts.parameters);
  }

  static Status look() {
    if (interrupted()) return Error{Code::cancelled, "interrupted; nothing has been written"};
    return {};
  }

  Status measure(const std::string& path, const std::string& name, ReportRow& row) {
    TRY(look());
    const auto loaded = TRY(models::load(path, {}, pool_));
    if (loaded.model == nullptr)
      return Error{Code::unsupported, fmt::format("{}: holds no weights of a model that generates", path)};
    const Windows& text = texts_.scored;
    {
      Progress progress(name + ": scoring", static_cast<std::int64_t>(text.tokens.size()) / text.window);
      const Score score = TRY(score_windows(*loaded.model, text.tokens, text.window, models::KvType::f16,
                                            [&](std::int64_t done, const Score& so_far) -> Status {
                                              progress.at(done, fmt::format("perplexity {:.4f}", so_far.perplexity()));
                                              return look();
                                            }));
      row.perplexity = score.perplexity();
    }
    Runner runner(*loaded.model, {.repeat = kDecodeRuns});
    const Outcome outcome = TRY(runner.run({.generate = kDecoded}));
    std::vector<double> speeds;
    for (const Times& times : outcome.runs) speeds.push_back(kDecoded / times.decode);
    row.speed = figures_of(speeds).median;
    row.unsure = outcome.unsure;
    return look();
  }

  Status find_worst(const std::string& path, const std::string& name, ReportRow& row) {
    auto file = TRY(models::open_file(path));
    const auto changed = TRY(models::open_model(std::move(file)));
    const Windows& text = texts_.scored;
    const std::size_t few = std::min(text.tokens.size(), static_cast<std::size_t>(text.window) * kWindowsForErrors);
    constexpr std::int64_t kSteps = 1000;
    Progress progress(name + ": layers", kSteps);
    const auto errors = TRY(models::layer_errors(model_, changed, std::span(text.tokens).first(few), text.window, pool_,
                                                 [&](double done) -> Status {
                                                   progress.at(static_cast<std::int64_t>(done * kSteps));
                                                   return look();
                                                 }));
    for (std::size_t i = 0; i < errors.size(); ++i) row.worst.push_back({static_cast<int>(i), errors[i]});
    std::ranges::sort(row.worst, std::ranges::greater{}, &LayerError::error);
    row.worst.resize(std::min(row.worst.size(), kWorst));
    return {};
  }

  const models::LoadedModel& model_;
  const ReportOptions& options_;
  const Texts& texts_;
  ThreadPool& pool_;
  double perplexity_ = 0;  // of the model as it is
};

bool quantized(const models::LoadedModel& model) {
  return std::ranges::any_of(model.file->tensors(),
                             [](const auto& tensor) { return kernels::type_info(tensor.type).block > 1; });
}

// Of this model that version cannot be made, but others may be.
bool leave_out(Code code) { return code == Code::unsupported || code == Code::too_large || code == Code::invalid; }

}  // namespace

Result<QuantizeReport> measure_report(const models::LoadedModel& model, const ReportOptions& options,
                                      ThreadPool& pool) {
  std::vector<std::string> notes;
  const auto versions = TRY(list_versions(options, model.file->assembled(), notes));
  const Texts texts = TRY(read_texts(model, options));
  const auto folder =
      TRY(TemporaryFolder::create(options.folder.empty() ? fs::temp_directory_path().string() : options.folder));
  QuantizeReport report{.model = model.facts.name,
                        .text = texts.name,
                        .parameters = model.facts.parameters,
                        .tokens = static_cast<std::int64_t>(texts.scored.tokens.size()) / texts.scored.window *
                                  (texts.scored.window - 1 - texts.scored.window / 2),
                        .twice = quantized(model),
                        .threads = pool.size(),
                        .isa = std::string(kernels::kernels().isa),
                        .notes = std::move(notes)};
  Reporter reporter(model, options, texts, pool);
  report.rows.push_back(TRY(reporter.original()));
  if (const double perplexity = report.rows.front().perplexity; !(perplexity < model.shape.vocabulary))
    report.notes.push_back(
        fmt::format("the model as it is has a perplexity of {:.0f} on this text, no less than a guess among its {} "
                    "tokens: the text is none of its kind, and the changes below say nothing",
                    perplexity, model.shape.vocabulary));
  for (const Version& version : versions) {
    auto row = reporter.version(version, folder.file(version.mix != nullptr ? "version.gguf" : "version"));
    if (row)
      report.rows.push_back(std::move(*row));
    else if (leave_out(row.error().code))
      report.notes.push_back(fmt::format("{} is left out: {}", version.name(), row.error().message));
    else
      return row.error();
  }
  if (options.calibration.empty() && options.methods.empty())
    report.notes.push_back("gptq and awq are left out: they look at a text, which --calibration gives");
  return report;
}

}  // namespace ashlar::cli
