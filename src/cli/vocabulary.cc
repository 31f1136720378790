#include "cli/vocabulary.h"

#include "models/loader.h"

namespace ashlar::cli {

Result<std::shared_ptr<const text::Tokenizer>> open_tokenizer(const std::string& path) {
  const auto file = TRY(models::open_text(path));
  return text::Tokenizer::create(TRY(models::read_vocabulary(file)));
}

}  // namespace ashlar::cli
