// The architectures that this build knows. Each registers itself in its own
// file under models/arch/.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/config.h"
#include "models/encoder_layers.h"
#include "models/layers.h"
#include "models/tensors.h"

namespace ashlar::models {

struct Architecture {
  std::string_view name;  // general.architecture
  // The file's keys to our fields.
  Result<Config> (*configure)(const Keys& keys);
  // The tensors that make up the weights.
  void (*list_tensors)(const Config& config, Weights& weights, TensorList& list);
  // The layers, in reading order.
  void (*forward)(const Weights& weights, Pass& pass);
};

// The same for encoders.
struct EncoderArchitecture {
  std::string_view name;
  Result<Config> (*configure)(const Keys& keys);
  // `source` tells which of the equal forms of a tensor a file has.
  void (*list_tensors)(const Config& config, const TensorSource& source, EncoderWeights& weights, TensorList& list);
  void (*forward)(const EncoderWeights& weights, EncoderPass& pass);
};

// nullptr: unknown.
const Architecture* find_architecture(std::string_view name);
const EncoderArchitecture* find_encoder(std::string_view name);
std::vector<std::string_view> architecture_names();  // of both kinds, sorted

// A static one of these in an architecture's file makes it known.
struct Register {
  explicit Register(Architecture architecture);
};
struct RegisterEncoder {
  explicit RegisterEncoder(EncoderArchitecture architecture);
};

}  // namespace ashlar::models
