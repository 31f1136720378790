#include "models/formats/hf_pooling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "models/formats/gguf.h"

namespace ashlar::models {
namespace {

constexpr std::string_view kSupported = "one of the first token, the mean and the last token is supported";

// As older writers have it, a flag each, and as newer ones have it, by name.
struct Mode {
  std::string_view flag, name;
  std::optional<Pooling> pooling;
};
constexpr std::array kModes = {Mode{"pooling_mode_cls_token", "cls", Pooling::cls},
                               Mode{"pooling_mode_mean_tokens", "mean", Pooling::mean},
                               Mode{"pooling_mode_lasttoken", "lasttoken", Pooling::last},
                               Mode{"pooling_mode_max_tokens", "max", std::nullopt},
                               Mode{"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", std::nullopt},
                               Mode{"pooling_mode_weightedmean_tokens", "weightedmean", std::nullopt}};

Result<std::optional<Pooling>> read_pooling(const Fields& fields) {
  if (const Json* named = fields.find("pooling_mode")) {
    const Json& name = named->is_array() && named->size() == 1 ? named->front() : *named;
    const auto mode = std::ranges::find_if(kModes, [&](const Mode& one) { return name == one.name; });
    if (mode == kModes.end() || !mode->pooling)
      return fields.unsupported("pooling_mode", fmt::format("is {}; {}", gguf::quoted(dump_json(*named)), kSupported));
    return mode->pooling;
  }
  std::optional<Pooling> found;
  for (const Mode& mode : kModes) {
    if (!TRY(fields.flag(mode.flag)).value_or(false)) continue;
    if (!mode.pooling || found) return fields.unsupported(mode.flag, fmt::format("is true; {}", kSupported));
    found = mode.pooling;
  }
  return found;
}

}  // namespace

Result<std::optional<Pooling>> open_hf_pooling(const std::string& folder) {
  const auto modules = TRY(FieldsFile::open(folder + "/modules.json"));
  if (!modules || !modules->json.is_array()) return std::optional<Pooling>();
  std::optional<Pooling> found;
  for (const Json& one : modules->json) {
    const Fields module(one, modules->place);
    const std::string type = TRY(module.text("type")).value_or(""), path = TRY(module.text("path")).value_or("");
    if (type.ends_with(".Normalize")) continue;
    if (type.ends_with(".Transformer")) {
      if (path.empty()) continue;
      return module.unsupported("path", fmt::format("puts the model into {}; its files beside modules.json are "
                                                    "supported",
                                                    gguf::quoted(path)));
    }
    if (!type.ends_with(".Pooling"))
      return module.unsupported(
          "type", fmt::format("is {}; a Transformer, its Pooling and a Normalize are supported", gguf::quoted(type)));
    if (path.empty() || path.find('/') != std::string::npos || path.starts_with('.'))
      return module.bad("path", "is not a folder beside modules.json");
    const auto pooling = TRY(FieldsFile::open(fmt::format("{}/{}/config.json", folder, path)));
    if (!pooling) return Error{Code::not_found, fmt::format("{}/{}: there is no config.json", folder, path)};
    found = TRY(read_pooling(pooling->fields()));
  }
  return found;
}

std::vector<std::string> read_labels(const Fields& fields) {
  std::vector<std::string> labels;
  const Json* names = fields.find("id2label");
  if (names == nullptr || !names->is_object()) return labels;
  for (std::size_t i = 0; i < names->size(); ++i) {
    const auto found = names->find(std::to_string(i));
    if (found == names->end() || !found->is_string()) return {};
    labels.push_back(found->get<std::string>());
  }
  const bool made_up = std::ranges::all_of(labels, [](const std::string& name) { return name.starts_with("LABEL_"); });
  return made_up ? std::vector<std::string>() : labels;
}

}  // namespace ashlar::models
