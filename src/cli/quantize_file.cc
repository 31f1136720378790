#include "cli/quantize_file.h"

#include <fmt/format.h>

#include <filesystem>
#include <limits>

#include "cli/calibration.h"
#include "cli/interrupts.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

// What plan_quantize() refuses, with the flag that allows it.
Result<models::QuantizePlan> make_plan(const models::LoadedModel& model, const QuantizeJob& job) {
  models::QuantizeLimits limits{.requantize = job.requantize, .importance = job.importance};
  const bool large = kernels::type_info(job.mix->type).block > 1 && model.facts.parameters > limits.rtn_parameters;
  if (job.large) limits.rtn_parameters = std::numeric_limits<std::int64_t>::max();
  auto plan = models::plan_quantize(model, *job.mix, limits);
  if (plan) {
    if (large)
      fmt::print(
          stderr,
          "warning: a model of more than 6.7 billion parameters is rounded to nearest; compare `ashlar perplexity` "
          "before and after\n");
    return plan;
  }
  Error error = plan.error();
  if (error.code == Code::too_large) error.message += "; --force does it all the same";
  if (error.code == Code::invalid) error.message += "; --allow-requantize does it all the same";
  return error;
}

}  // namespace

Result<models::QuantizePlan> quantize_file(const models::LoadedModel& model, const QuantizeJob& job,
                                           const std::string& path, ThreadPool& pool) {
  auto plan = TRY(make_plan(model, job));
  auto out = models::NewFile::create(path, job.replace);
  if (!out) {
    Error error = out.error();
    if (!job.replace && std::filesystem::is_regular_file(path)) error.message += "; --force overwrites it";
    return error;
  }
  models::MadeLayers layers;
  const std::string folder = path + ".layers";
  const auto make = [&](const models::Calibration& calibration, const models::CalibrationWatch& watch) {
    return models::make_layers(model, plan, calibration, pool, watch);
  };
  if (job.method != models::Method::rtn)
    layers = TRY(calibrated_layers(job.method, job, folder, model.shape.layers, make, models::remove_layers));
  Progress progress("quantizing", model.facts.parameters);
  TRY(models::quantize(
      model, plan, pool,
      [&](std::int64_t done, std::string_view tensor) -> Status {
        if (interrupted()) return Error{Code::cancelled, "interrupted; nothing has been written"};
        progress.at(done, tensor);
        return {};
      },
      *out));
  TRY(out->commit());
  if (!layers.empty()) models::remove_layers(folder, model.shape.layers);
  return plan;
}

}  // namespace ashlar::cli
