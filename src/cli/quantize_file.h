// One quantized file, made of an open model.
#pragma once

#include <string>

#include "base/result.h"
#include "base/threads.h"
#include "cli/calibration.h"
#include "models/quantize.h"
#include "models/quantizers/calibrated.h"

namespace ashlar::cli {

struct QuantizeJob {
  const models::Mix* mix = nullptr;
  models::Method method = models::Method::rtn;
  const models::Importance* importance = nullptr;
  const Windows* windows = nullptr;  // to calibrate on: of all methods but rtn
  models::GptqOptions gptq;
  bool resume = false;      // layers that an interrupted job left are taken
  bool replace = false;     // a file that is there is overwritten
  bool requantize = false;  // weights that are quantized already are rounded again
  bool large = false;       // models above 6.7 billion parameters are rounded to nearest too
};

// Writes `path`, whole or not at all. A bar on the terminal. Errors as models::plan_quantize() and models::quantize(),
// with the flag that allows what was refused; cancelled: interrupted(), and layers that are done stay in PATH.layers.
// What methods made is gone: no `made` of the plan may be read.
Result<models::QuantizePlan> quantize_file(const models::LoadedModel& model, const QuantizeJob& job,
                                           const std::string& path, ThreadPool& pool);

}  // namespace ashlar::cli
