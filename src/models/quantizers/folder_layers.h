// The methods that look at a text, for folders: what calibrated.h does for a GGUF file. Each layer's new tensors, by
// the folder's names, go into a file of their own, so that stopped work goes on where it was.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/formats/safetensors.h"
#include "models/loader.h"
#include "models/quantize_folder.h"
#include "models/quantizers/calibrated.h"

namespace ashlar::models {

// The files of all layers, open.
struct FolderLayers {
  std::vector<safetensors::Checkpoint> files;
  MadeTensors tensors() const;
  std::int64_t outliers = 0, columns = 0;  // LLM.int8(): columns that stay in 16 bits, of all that matrices have
};

// The layers of plan.form.method, which is not rtn; as make_layers(). The next layer sees what ours computes with the
// codes, as it reads them back.
Result<FolderLayers> make_folder_layers(const LoadedModel& model, const FolderPlan& plan,
                                        const Calibration& calibration, ThreadPool& pool,
                                        const CalibrationWatch& watch);

// The folder and the files that make_folder_layers() leaves in it; nothing else that may lie there.
void remove_folder_layers(const std::string& folder, int layers);

}  // namespace ashlar::models
