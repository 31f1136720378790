// How hf_config.cc reads its file, part by part: each takes the model's members and fills what it is named after.
// Errors as read_hf_config().
#pragma once

#include "models/formats/hf_config.h"

namespace ashlar::models {

inline constexpr int kMostVocabulary = 1 << 24;

// Heads and windows; DeepSeek's short vectors. After the layers and the width.
Status read_attention(const Fields& fields, const Family& family, Config& config);

// The rotary embedding, with the factors that GGUF keeps as tensors. After the attention.
Status read_rope(const Fields& fields, const Family& family, HfConfig& out);

// After the feed-forward's width.
Status read_experts(const Fields& fields, const Family& family, Config& config);

}  // namespace ashlar::models
