// Any bytes as a tokenizer.json, a SentencePiece model, tekken.json, vocab.json, or several files of a folder: an
// error, or a vocabulary; where that makes a tokenizer, it takes text apart and puts it together.
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "models/formats/hf_vocabulary.h"
#include "models/formats/sentencepiece_model.h"
#include "models/formats/tekken.h"
#include "models/formats/tokenizer_json.h"

namespace {

using namespace ashlar;

// A folder that is gone with the process.
const std::filesystem::path& room() {
  static const struct Room {
    std::filesystem::path path = std::filesystem::temp_directory_path() / ("ashlar_fuzz_" + std::to_string(getpid()));
    ~Room() { std::filesystem::remove_all(path); }
  } kRoom;
  return kRoom.path;
}

// Files, each begun by a line that names it behind a '%'.
Result<text::Vocabulary> read_folder(std::string_view bytes) {
  constexpr std::string_view kNames[] = {"tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "config.json",
                                         "generation_config.json",
                                         "sentencepiece.bpe.model",
                                         "tokenizer.model",
                                         "vocab.json",
                                         "merges.txt",
                                         "vocab.txt",
                                         "tekken.json",
                                         "chat_template.json"};
  std::filesystem::remove_all(room());
  std::filesystem::create_directories(room());
  while (bytes.starts_with('%')) {
    const std::size_t line = std::min(bytes.find('\n'), bytes.size());
    const std::string_view name = bytes.substr(1, line - 1);
    bytes.remove_prefix(std::min(line + 1, bytes.size()));
    const std::size_t next = bytes.find("\n%"), end = std::min(next, bytes.size());
    if (std::ranges::find(kNames, name) != std::end(kNames))
      std::ofstream(room() / name, std::ios::binary) << bytes.substr(0, end);
    bytes.remove_prefix(next == std::string_view::npos ? end : end + 1);
  }
  auto text = models::read_folder_text(room().string());
  if (!text) return std::unexpected(std::move(text).error());
  return std::move(text->vocabulary);
}

Result<text::Vocabulary> read(std::string_view bytes) {
  if (bytes.starts_with('\n')) return models::read_sentencepiece_model(bytes, "fuzz");
  if (bytes.starts_with('!')) return models::read_tekken(bytes.substr(1), "fuzz");
  if (bytes.starts_with('%')) return read_folder(bytes);
  if (!bytes.starts_with('#')) return models::read_tokenizer_json(bytes, "fuzz");
  bytes.remove_prefix(1);
  const std::size_t line = bytes.find('\n');
  const std::string_view merges = line == std::string_view::npos ? "" : bytes.substr(line + 1);
  return models::read_vocab_and_merges(bytes.substr(0, line), merges, "qwen2", "fuzz");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto vocabulary = read({reinterpret_cast<const char*>(data), size});
  if (!vocabulary) {
    if (vocabulary.error().message.empty()) std::abort();
    return 0;
  }
  const auto tokenizer = text::Tokenizer::create(std::move(*vocabulary));
  if (!tokenizer) return 0;
  const auto ids = (*tokenizer)->encode("Hello, a b\tc \xE2\x96\x81 \xFF 12345 <s> \xC3\x89", {.parse_special = true});
  (void)(*tokenizer)->decode(ids, true);
  return 0;
}
