#include "cli/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "cli/terminal.h"
#include "text/tokenizer.h"

namespace ashlar::cli {

Result<Windows> read_windows(const models::LoadedModel& model, const std::string& path, int window, int least, int most) {
  Windows out{.window = std::min(window, model.shape.context)};
  if (out.window < 16) return Error{Code::invalid, "--window: a window has at least 16 tokens"};
  const std::string text = TRY(read_file(path, std::size_t{1} << 30));
  if (model.vocabulary.tokens.empty())
    return Error{Code::unsupported, fmt::format("{}: has no vocabulary, so no text can be read with it", model.file->path())};
  const auto tokenizer = TRY(text::Tokenizer::create(model.vocabulary));
  const std::vector<std::int32_t> tokens = tokenizer->encode(text);
  const auto size = static_cast<std::size_t>(out.window);
  const std::size_t windows = tokens.size() / size;
  if (windows < static_cast<std::size_t>(least))
    return Error{Code::invalid, fmt::format("{}: the text has {} tokens; at least {} are needed, {} windows of {}", path,
                                            tokens.size(), size * static_cast<std::size_t>(least), least, size)};
  const std::size_t taken = std::min(windows, static_cast<std::size_t>(most));
  for (std::size_t i = 0; i < taken; ++i) {
    const auto from = std::span(tokens).subspan(i * windows / taken * size, size);
    out.tokens.insert(out.tokens.end(), from.begin(), from.end());
    if (model.vocabulary.add_bos && model.vocabulary.bos >= 0) out.tokens[i * size] = model.vocabulary.bos;
  }
  return out;
}

}  // namespace ashlar::cli
