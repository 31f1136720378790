#include "models/formats/hf_absent.h"

#include <fmt/format.h>

#include <filesystem>

namespace ashlar::models {

namespace fs = std::filesystem;

Error no_config(const std::string& folder) {
  std::error_code ignored;
  const auto has = [&](const char* file) { return fs::exists(fs::path(folder) / file, ignored); };
  if (has("adapter_config.json"))
    return {Code::unsupported, fmt::format("{}: this is an adapter; its base model's folder is expected, and the "
                                           "adapter beside it",
                                           folder)};
  if (has("params.json"))
    return {Code::unsupported,
            fmt::format("{}: params.json without config.json is a publisher's own format; the model's Hugging Face "
                        "files are expected",
                        folder)};
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".gguf")
      return {Code::not_found,
              fmt::format("{}: there is no config.json; give the GGUF file itself: {}", folder, entry.path().string())};
  if (has("snapshots"))
    return {Code::not_found, fmt::format("{}: there is no config.json; this is a cache's folder, and the model is one "
                                         "of those in its snapshots",
                                         folder)};
  return {Code::not_found, fmt::format("{}: there is no config.json", folder)};
}

}  // namespace ashlar::models
