// A text as windows of tokens, for what looks at a model's activations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/terminal.h"
#include "models/loader.h"
#include "models/quantizers/calibrated.h"

namespace ashlar::cli {

struct Windows {
  std::vector<std::int32_t> tokens;  // whole windows, one after another
  int window = 0;                    // tokens of one
};

// The text cut into windows of `window` tokens, or the model's context where that is shorter; each begins with the BOS
// token where the model adds one. The first `most` windows of more, evenly taken from all of it. invalid: the text has
// fewer than `least` windows; the sentence says how many tokens are needed, of the text that is called `name`.
Result<Windows> cut_windows(const models::LoadedModel& model, std::string_view text, const std::string& name,
                            int window, int least, int most);
// The same of a file.
Result<Windows> read_windows(const models::LoadedModel& model, const std::string& path, int window, int least,
                             int most);

// Windows to calibrate on: at most `windows`, and no more than their activations have room for.
Result<Windows> calibration_windows(const models::LoadedModel& model, std::string_view text, const std::string& name,
                                    int window, int windows);

// What a method tells how far it is, over all layers of a model: `progress` of kLayerSteps, which must outlive it.
// cancelled: Ctrl-C.
constexpr std::int64_t kLayerSteps = 1000;
models::CalibrationWatch watch_layers(Progress& progress, int layers);

// What a method makes of all layers, with a bar: make(calibration, watch), its result. `job`: windows, gptq and resume
// as the command line has them. Of what fails in another way than by Ctrl-C, nothing stays in `folder`:
// remove(folder, layers).
template <class Job, class Make, class Remove>
auto calibrated_layers(models::Method method, const Job& job, const std::string& folder, int layers, Make make,
                       Remove remove) {
  CHECK(job.windows != nullptr, "a method that looks at a text has one");
  Progress progress(std::string(models::name_of(method)), kLayerSteps);
  auto made = make(models::Calibration{.method = method,
                                       .tokens = job.windows->tokens,
                                       .window = job.windows->window,
                                       .gptq = job.gptq,
                                       .folder = folder,
                                       .resume = job.resume},
                   watch_layers(progress, layers));
  if (!made && made.error().code != Code::cancelled) remove(folder, layers);
  return made;
}

// A text's first half and its second, cut where a line ends if one does near there.
std::pair<std::string_view, std::string_view> halves(std::string_view text);

}  // namespace ashlar::cli
