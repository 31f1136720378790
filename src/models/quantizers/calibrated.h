// Quantizers that look at what a model computes, layer after layer: each layer's new tensors go into a file of their
// own beside the model that is being made, so that work that was stopped goes on where it was.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/loader.h"
#include "models/quantize.h"
#include "models/quantizers/gptq.h"

namespace ashlar::models {

enum class Method { rtn, gptq, awq, smoothquant, llm_int8 };
// By name, in lower case. invalid: names those there are.
Result<Method> method_of(std::string_view name);
std::string_view name_of(Method method);

struct Calibration {
  Method method = Method::gptq;
  std::span<const std::int32_t> tokens;  // whole windows
  int window = 512;
  GptqOptions gptq;
  std::string folder;   // of the layers' files; made if it is not there
  bool resume = false;  // layers that are in it already are taken, else made anew
};

// Told now and then: how far the work is, in [0, 1], and in which layer. An error stops it; layers that are done stay.
using CalibrationWatch = std::function<Status(double done, int layer)>;

// The files of all layers, open. The plan's `made` bytes point into them.
using MadeLayers = std::vector<gguf::File>;

// Makes the tensors of all layers, as large as `plan` says, and sets them in it. Peak memory: one layer's weights and
// mean products, and the tokens' activations. invalid: another work lies in the folder; corrupt: a weight or an
// activation is not finite (the sentence names it); io: the folder cannot be written to.
Result<MadeLayers> make_layers(const LoadedModel& model, QuantizePlan& plan, const Calibration& calibration,
                               ThreadPool& pool, const CalibrationWatch& watch);

// The folder and the files that make_layers() leaves in it; nothing else that may lie there.
void remove_layers(const std::string& folder, int layers);

}  // namespace ashlar::models
