#include "cli/quantize_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>

#include "base/bytes.h"
#include "base/json_full.h"
#include "cli/calibration.h"
#include "cli/interrupts.h"
#include "cli/terminal.h"
#include "models/quantizers/folder_layers.h"

namespace ashlar::cli {
namespace {

// What plan_folder() refuses, with the flag that allows it.
Result<models::FolderPlan> make_plan(const models::LoadedModel& model, const std::string& folder,
                                     const FolderJob& job) {
  models::FolderLimits limits;
  const bool large = job.form.method == models::Method::rtn && model.facts.parameters > limits.rtn_parameters;
  if (job.large) limits.rtn_parameters = std::numeric_limits<std::int64_t>::max();
  auto plan = models::plan_folder(model, folder, job.form, limits);
  if (plan && large)
    fmt::print(stderr,
               "warning: a model of more than 6.7 billion parameters is rounded to nearest; compare `ashlar "
               "perplexity` before and after\n");
  if (plan || plan.error().code != Code::too_large) return plan;
  return Error{Code::too_large, plan.error().message + "; --force does it all the same"};
}

std::uint64_t bytes_of(const std::string& folder) {
  std::error_code unknown;
  std::uint64_t sum = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder, unknown))
    if (entry.path().extension() == ".safetensors") sum += entry.file_size(unknown);
  return sum;
}

}  // namespace

Result<FolderOutcome> quantize_folder(const models::LoadedModel& model, const std::string& folder, const FolderJob& job,
                                      const std::string& path, ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  const auto plan = TRY(make_plan(model, folder, job));
  auto out = models::NewFolder::create(path, job.replace);
  if (!out) {
    Error error = out.error();
    if (!job.replace && error.code == Code::invalid && std::filesystem::is_directory(path))
      error.message += "; --force overwrites it";
    return error;
  }
  FolderOutcome outcome{.form = plan.form,
                        .bytes_before = plan.weights.bytes(),
                        .elements = plan.elements,
                        .quantized = plan.quantized,
                        .misfits = plan.misfits};
  models::FolderLayers layers;
  const std::string beside = out->path() + ".layers";
  const auto make = [&](const models::Calibration& calibration, const models::CalibrationWatch& watch) {
    return models::make_folder_layers(model, plan, calibration, pool, watch);
  };
  if (job.form.method != models::Method::rtn)
    layers =
        TRY(calibrated_layers(job.form.method, job, beside, model.shape.layers, make, models::remove_folder_layers));
  outcome.outliers = layers.outliers;
  outcome.columns = layers.columns;
  Progress progress("writing", plan.elements);
  TRY(models::write_folder(
      plan, layers.tensors(), pool,
      [&](std::int64_t done, std::string_view tensor) -> Status {
        if (interrupted()) return Error{Code::cancelled, "interrupted; nothing has been written"};
        progress.at(done, tensor);
        return {};
      },
      *out));
  TRY(out->commit());
  if (!layers.files.empty()) models::remove_folder_layers(beside, model.shape.layers);
  outcome.bytes = bytes_of(out->path());
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

std::string folder_text(const FolderOutcome& outcome, const std::string& path) {
  constexpr std::size_t kShown = 5;
  const Palette colour = palette(stdout);
  std::string out =
      fmt::format("{}{}{}: {} by {}, {} instead of {}, in {:.1f} s\n", colour.bold, path, colour.plain,
                  outcome.form.name(), models::name_of(outcome.form.method), to_string(Bytes{outcome.bytes}),
                  to_string(Bytes{outcome.bytes_before}), outcome.seconds);
  out += fmt::format(
      "  {:.1f} % of the weights are codes; embedding, output and norms stay as they are\n",
      100 * static_cast<double>(outcome.quantized) / static_cast<double>(std::max<std::int64_t>(outcome.elements, 1)));
  if (outcome.form.method == models::Method::llm_int8)
    out += fmt::format("  {} of {} columns meet inputs above {:g} and stay in 16 bits\n", outcome.outliers,
                       outcome.columns, outcome.form.outliers);
  for (std::size_t i = 0; i < std::min(kShown, outcome.misfits.size()); ++i)
    out += fmt::format("  {}{}{}\n", colour.yellow, outcome.misfits[i], colour.plain);
  if (outcome.misfits.size() > kShown)
    out += fmt::format("  {}and {} more{}\n", colour.yellow, outcome.misfits.size() - kShown, colour.plain);
  return out;
}

Json folder_json(const FolderOutcome& outcome, const std::string& path) {
  Json out = {{"path", path},
              {"form", outcome.form.name()},
              {"method", models::name_of(outcome.form.method)},
              {"bytes_before", outcome.bytes_before},
              {"bytes", outcome.bytes},
              {"weights", outcome.elements},
              {"quantized_weights", outcome.quantized},
              {"kept", outcome.misfits},
              {"seconds", outcome.seconds}};
  if (outcome.form.method == models::Method::llm_int8) {
    out["outlier_columns"] = outcome.outliers;
    out["columns"] = outcome.columns;
  }
  return out;
}

}  // namespace ashlar::cli
