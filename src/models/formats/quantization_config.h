// How a checkpoint was quantized: "quantization_config" of config.json, or the files that older writers put beside it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ashlar::models {

struct QuantizationConfig {
  enum class Method { gptq, awq, compressed_tensors, fp8, bitsandbytes };
  // One way in which weights are stored; compressed-tensors may mix several.
  struct Scheme {
    int bits = 4;
    std::int64_t group = 0;                  // columns that share a scale; 0: all of a row
    std::int64_t block_rows = 0, block = 0;  // of a tile of rows and columns that shares one; 0: no tiles
  };

  Method method = Method::gptq;
  std::string place;  // what errors call the folder
  std::vector<Scheme> schemes{1};
  bool by_activation = false;  // GPTQ: columns were quantized in another order, and g_idx tells their groups
  bool zeros_less_one = true;  // GPTQ: zeros are stored minus one
  bool per_module = false;     // GPTQ: modules may differ from what is said here
  bool zeros = true;           // AWQ: there are some
};

// Of a folder; nullopt: its weights are not quantized. corrupt: a member is impossible (a group of 0 columns);
// unsupported: a method or a variant that this build does not read, with those that it does.
Result<std::optional<QuantizationConfig>> open_quantization_config(const std::string& folder);

// The same of the texts of config.json, quantize_config.json and quant_config.json; empty: there is no such file.
Result<std::optional<QuantizationConfig>> read_quantization_config(std::string_view config, std::string_view gptq,
                                                                   std::string_view awq, std::string_view folder);

}  // namespace ashlar::models
