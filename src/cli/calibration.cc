#include "cli/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "cli/interrupts.h"
#include "text/tokenizer.h"

namespace ashlar::cli {

Result<Windows> cut_windows(const models::LoadedModel& model, std::string_view text, const std::string& name,
                            int window, int least, int most) {
  Windows out{.window = std::min(window, model.shape.context)};
  if (out.window < 16) return Error{Code::invalid, "--window: a window has at least 16 tokens"};
  if (model.vocabulary.tokens.empty())
    return Error{Code::unsupported,
                 fmt::format("{}: has no vocabulary, so no text can be read with it", model.file->path())};
  const auto tokenizer = TRY(text::Tokenizer::create(model.vocabulary));
  const std::vector<std::int32_t> tokens = tokenizer->encode(text);
  const auto size = static_cast<std::size_t>(out.window);
  const std::size_t windows = tokens.size() / size;
  if (windows < static_cast<std::size_t>(least))
    return Error{Code::invalid, fmt::format("{}: the text has {} tokens; at least {} are needed, {} windows of {}",
                                            name, tokens.size(), size * static_cast<std::size_t>(least), least, size)};
  const std::size_t taken = std::min(windows, static_cast<std::size_t>(most));
  for (std::size_t i = 0; i < taken; ++i) {
    const auto from = std::span(tokens).subspan(i * windows / taken * size, size);
    out.tokens.insert(out.tokens.end(), from.begin(), from.end());
    if (model.vocabulary.add_bos && model.vocabulary.bos >= 0) out.tokens[i * size] = model.vocabulary.bos;
  }
  return out;
}

Result<Windows> read_windows(const models::LoadedModel& model, const std::string& path, int window, int least,
                             int most) {
  return cut_windows(model, TRY(read_file(path, std::size_t{1} << 30)), path, window, least, most);
}

Result<Windows> calibration_windows(const models::LoadedModel& model, std::string_view text, const std::string& name,
                                    int window, int windows) {
  constexpr std::int64_t kMostActivations = 128 << 20;  // bytes, of each of two models
  constexpr std::int64_t kLeastWindows = 4;
  const std::int64_t room = kMostActivations / (std::int64_t{4} * model.shape.width * std::max(window, 1));
  const auto most = std::clamp<std::int64_t>(windows, 1, std::max(room, kLeastWindows));
  return cut_windows(model, text, name, window, kLeastWindows, static_cast<int>(most));
}

models::CalibrationWatch watch_layers(Progress& progress, int layers) {
  return [&progress, layers](double done, int layer) -> Status {
    if (interrupted()) return Error{Code::cancelled, "interrupted; --resume goes on from here"};
    progress.at(static_cast<std::int64_t>(done * kLayerSteps), fmt::format("layer {} of {}", layer + 1, layers));
    return {};
  };
}

std::pair<std::string_view, std::string_view> halves(std::string_view text) {
  std::size_t at = text.size() / 2;
  const std::size_t line = text.find('\n', at);
  if (line <= at + at / 8) at = line + 1;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;  // within a character
  return {text.substr(0, at), text.substr(at)};
}

}  // namespace ashlar::cli
