// A model file's tokenizer alone, for the commands that need no weights.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "text/tokenizer.h"

namespace ashlar::cli {

// As find_model(), models::open_text(), read_vocabulary() and Tokenizer::create().
Result<std::shared_ptr<const text::Tokenizer>> open_tokenizer(const std::string& model);

}  // namespace ashlar::cli
