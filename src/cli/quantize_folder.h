// One quantized folder, made of an open Hugging Face folder.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/threads.h"
#include "cli/calibration.h"
#include "models/quantize_folder.h"
#include "models/quantizers/gptq.h"

namespace ashlar::cli {

struct FolderJob {
  models::FolderForm form;
  const Windows* windows = nullptr;  // to calibrate on: of all methods but rtn
  models::GptqOptions gptq;
  bool resume = false;   // layers that an interrupted job left are taken
  bool replace = false;  // a model's folder that is there is overwritten
  bool large = false;    // models above 6.7 billion parameters are rounded to nearest too
};

struct FolderOutcome {
  models::FolderForm form;
  std::uint64_t bytes_before = 0, bytes = 0;  // of all tensors
  std::int64_t elements = 0, quantized = 0;   // weights, and those that became codes
  std::int64_t outliers = 0, columns = 0;     // LLM.int8(): columns kept in 16 bits, of all
  std::vector<std::string> misfits;           // matrices that stay as they are, and why
  double seconds = 0;
};

// Writes the folder `path`, whole or not at all. A bar on the terminal. Errors as models::plan_folder() and
// models::write_folder(), with the flag that allows what was refused; cancelled: interrupted(), and layers that are
// done stay in PATH.layers.
Result<FolderOutcome> quantize_folder(const models::LoadedModel& model, const std::string& folder, const FolderJob& job,
                                      const std::string& path, ThreadPool& pool);

std::string folder_text(const FolderOutcome& outcome, const std::string& path);
Json folder_json(const FolderOutcome& outcome, const std::string& path);

}  // namespace ashlar::cli
