#include "models/formats/weight_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

namespace ashlar::models::safetensors {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".safetensors";
constexpr std::size_t kMostFiles = 65'536;

// "NAME-00002-of-00003.safetensors"
struct Part {
  std::string name;
  int number = 0, count = 0;
};
std::optional<Part> part_of(std::string_view file) {
  constexpr std::string_view kOf = "-of-";
  file.remove_suffix(kSuffix.size());
  const std::size_t of = file.rfind(kOf), dash = of == file.npos || of == 0 ? file.npos : file.rfind('-', of - 1);
  if (dash == file.npos) return std::nullopt;
  Part part{.name = std::string(file.substr(0, dash))};
  const auto read = [](std::string_view digits, int& number) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    return error == std::errc() && end == digits.data() + digits.size() && number > 0;
  };
  if (!read(file.substr(dash + 1, of - dash - 1), part.number) || !read(file.substr(of + kOf.size()), part.count))
    return std::nullopt;
  return part;
}

// The files of one folder, by name.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (names.size() == kMostFiles) break;
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

// What is there instead of safetensors.
Error explain(const std::string& folder, const std::vector<std::string>& names) {
  const auto path = [&](const std::string& name) { return (fs::path(folder) / name).string(); };
  for (const std::string_view first : {"pytorch_model", "consolidated", "model", ""})
    for (const std::string& name : names)
      if (name.starts_with(first) && is_pickle_name(name)) return refuse_pickle(path(name));
  constexpr std::pair<std::string_view, std::string_view> kOthers[] = {{".gguf", "a GGUF file"},
                                                                       {".h5", "TensorFlow's"},
                                                                       {".msgpack", "Flax's"},
                                                                       {".onnx", "ONNX"},
                                                                       {".npz", "NumPy's"}};
  for (const auto& [extension, what] : kOthers)
    for (const std::string& name : names)
      if (name.ends_with(extension))
        return {Code::unsupported,
                fmt::format("{}: this is {}; {}", path(name), what,
                            extension == ".gguf" ? "give its own path to run it" : "safetensors are expected")};
  return {Code::not_found,
          fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is there", folder)};
}

}  // namespace

Result<WeightFiles> find_weights(const std::string& folder) {
  const std::vector<std::string> names = names_in(folder);
  const auto path = [&](const std::string& name) { return (fs::path(folder) / name).string(); };
  for (const char* whole : {"model.safetensors", "model.safetensors.index.json"}) {
    if (!std::ranges::binary_search(names, whole)) continue;
    const bool index = std::string_view(whole).ends_with(".json");
    return index ? WeightFiles{.index = path(whole), .files = {}} : WeightFiles{.index = {}, .files = {path(whole)}};
  }
  std::vector<std::string> files;
  for (const std::string& name : names)
    if (name.ends_with(kSuffix) && !name.starts_with("consolidated") && !name.starts_with("adapter"))
      files.push_back(name);
  if (files.empty()) return explain(folder, names);
  const auto first = part_of(files.front());
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto part = part_of(files[i]);
    const bool alone = files.size() == 1 && !part;
    const bool of_one = part && first && part->name == first->name && part->count == first->count;
    if (!alone && !of_one)
      return Error{Code::not_found, fmt::format("{}: {} and {} could both be the model; model.safetensors.index.json, "
                                                "which says so, is missing",
                                                folder, files.front(), files[std::max<std::size_t>(i, 1)])};
    if (part && part->number != static_cast<int>(i) + 1)
      return Error{Code::not_found,
                   fmt::format("{}: part {} of {} of this model is missing", folder, i + 1, part->count)};
  }
  if (first && files.size() < static_cast<std::size_t>(first->count))
    return Error{Code::not_found,
                 fmt::format("{}: part {} of {} of this model is missing", folder, files.size() + 1, first->count)};
  WeightFiles found;
  for (const std::string& file : files) found.files.push_back(path(file));
  return found;
}

bool is_pickle_name(const std::string& path) {
  constexpr std::string_view kPickles[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".zip"};
  return std::ranges::count(kPickles, fs::path(path).extension().string()) > 0;
}

Error refuse_pickle(const std::string& path) {
  return Error{
      Code::unsupported,
      fmt::format("{}: pickles and zip archives are not read, for they can run code; safetensors are expected, "
                  "as save_pretrained() of transformers writes them",
                  path)};
}

}  // namespace ashlar::models::safetensors
