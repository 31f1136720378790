// The model types of Hugging Face folders that are computed here: one row each, with what sets it apart.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "models/formats/hf_fields.h"

namespace ashlar::models {

struct Family {
  std::string_view model_type;
  // What every class of its code begins with: "Qwen3" of Qwen3ForCausalLM, Qwen3Model, Qwen3ForSequenceClassification.
  std::string_view stem;
  std::string_view architecture;   // as GGUF calls it
  int head_dim = 0;                // where the configuration does not say; 0: the width by the heads
  int sliding_window = 0;          // likewise; 0: none
  int full_every = 0;              // likewise: of so many layers the last has no window; 0: all have it
  bool window_switch = false;      // "use_sliding_window" and "max_window_layers" decide
  bool gelu = false;               // gates the feed-forward, by its approximation with tanh; otherwise silu
  bool attention_bias = false;     // may be true
  bool partial_rotary = false;     // "partial_rotary_factor" may be less than 1
  std::string_view defaults = {};  // an object: members that the library fills in where they are absent
};

// What a folder's model was made for, by its class.
enum class HfTask {
  generate,  // ...ForCausalLM, ...ForConditionalGeneration
  embed,     // ...Model: there is no output matrix
  classify   // ...ForSequenceClassification
};

struct FamilyAndTask {
  const Family* family;
  HfTask task;
};
// The family of the "model_type" that the first of the "architectures" is a class of; either may be absent.
// unsupported: none, with what is supported.
Result<FamilyAndTask> find_family(const Fields& fields);

}  // namespace ashlar::models
