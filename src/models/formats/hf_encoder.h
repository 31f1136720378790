// The encoders among Hugging Face folders: BERT, RoBERTa, XLM-RoBERTa and Nomic's BERT, with or without a classifier.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "models/config.h"
#include "models/formats/gguf_writer.h"
#include "models/formats/hf_tensors.h"

namespace ashlar::models {

struct HfEncoder {
  Config config;           // of the architecture that GGUF calls so too
  int first_position = 0;  // rows of the positions before the first token's: RoBERTa's padding
  bool classifies = false;
};

// Empty: config.json is another family's. not_found: there is none. corrupt: a member is missing or impossible;
// unsupported: a variant that the layers do not compute.
Result<std::optional<HfEncoder>> open_hf_encoder(const std::string& folder);

// general.* and ARCHITECTURE.*, of an encoder, as add_config_keys() does it.
void add_encoder_keys(const HfEncoder& encoder, std::optional<std::uint32_t> file_type, const std::string& folder,
                      gguf::Writer& writer);

// Empty: a tensor that only training needs. Errors: as rename().
Result<std::optional<Renamed>> rename_encoder(Stored stored, const HfEncoder& encoder, std::string_view place);

}  // namespace ashlar::models
