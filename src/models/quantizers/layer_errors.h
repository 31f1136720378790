// What rounding did to each layer, told from a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "models/loader.h"

namespace ashlar::models {

// Told now and then: how far the work is, in [0, 1]. An error stops it.
using ErrorWatch = std::function<Status(double done)>;

// For each layer, how far off what it adds to the stream is when the layers of `changed` take the place of those of
// `original`, each on the inputs that `original` gives it: the root of the mean, over tokens, of |difference|^2 / |what
// the layer adds|^2. Weights that are scaled in one matrix and back in another of the layer are no error so. `tokens`
// are whole windows; both models of open_model(), of one architecture. Holds one layer of each and three times the
// tokens' activations. Errors as LayerWalk.
Result<std::vector<double>> layer_errors(const LoadedModel& original, const LoadedModel& changed,
                                         std::span<const std::int32_t> tokens, int window, ThreadPool& pool,
                                         const ErrorWatch& watch);

}  // namespace ashlar::models
