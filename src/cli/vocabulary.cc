#include "cli/vocabulary.h"

#include "cli/stored_model.h"
#include "models/loader.h"

namespace ashlar::cli {

Result<std::shared_ptr<const text::Tokenizer>> open_tokenizer(const std::string& model) {
  const std::string path = TRY(find_model(model));
  const auto file = TRY(models::open_text(path));
  return text::Tokenizer::create(TRY(models::read_vocabulary(file)));
}

}  // namespace ashlar::cli
