// Any bytes as a tokenizer.json, a SentencePiece model, or vocab.json: an error, or a vocabulary; where that makes a
// tokenizer, it takes text apart and puts it together.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "models/formats/sentencepiece_model.h"
#include "models/formats/tokenizer_json.h"

namespace {

using namespace ashlar;

Result<text::Vocabulary> read(std::string_view bytes) {
  if (bytes.starts_with('\n')) return models::read_sentencepiece_model(bytes, "fuzz");
  if (!bytes.starts_with('#')) return models::read_tokenizer_json(bytes, "fuzz");
  bytes.remove_prefix(1);
  const std::size_t line = bytes.find('\n');
  const std::string_view merges = line == std::string_view::npos ? "" : bytes.substr(line + 1);
  return models::read_vocab_and_merges(bytes.substr(0, line), merges, "qwen2", "fuzz");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto vocabulary = read({reinterpret_cast<const char*>(data), size});
  if (!vocabulary) return 0;
  const auto tokenizer = text::Tokenizer::create(std::move(*vocabulary));
  if (!tokenizer) return 0;
  const auto ids = (*tokenizer)->encode("Hello, a b\tc \xE2\x96\x81 \xFF 12345 <s>", {.parse_special = true});
  (void)(*tokenizer)->decode(ids, true);
  return 0;
}
