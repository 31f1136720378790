#include "models/formats/hf_fields.h"

#include <fmt/format.h>

#include <cmath>

#include "base/mapped_file.h"

namespace ashlar::models {
namespace {

constexpr std::size_t kMaxFileBytes = 4u << 20;
constexpr JsonLimits kLimits{.depth = 32, .members = 4096, .elements = 1 << 16, .unique = true};

Result<FieldsFile> parse(std::string_view text, std::string place) {
  if (text.size() > kMaxFileBytes)
    return Error{Code::corrupt,
                 fmt::format("{}: {} bytes; at most {} are expected", place, text.size(), kMaxFileBytes)};
  auto json = parse_json(text, kLimits);
  if (!json) return Error{Code::corrupt, fmt::format("{}: {}", place, json.error().message)};
  return FieldsFile{.place = std::move(place), .json = std::move(*json)};
}

}  // namespace

Error Fields::bad(std::string_view name, std::string_view what, Code code) const {
  return Error{code, fmt::format("{}: \"{}{}\" {}", place_, prefix_, name, what)};
}

const Json* Fields::find(std::string_view name) const {
  if (!object_->is_object()) return nullptr;
  const auto at = object_->find(name);
  return at == object_->end() || at->is_null() ? nullptr : &*at;
}

Result<std::optional<bool>> Fields::flag(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return bad(name, "is not true or false");
  return value->get<bool>();
}

Result<std::optional<std::string>> Fields::text(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return bad(name, "is not a string");
  return value->get<std::string>();
}

Result<std::optional<int>> Fields::whole(std::string_view name, int least, int most) const {
  const Json* value = find(name);
  if (value == nullptr) return std::optional<int>();
  if (!value->is_number_integer()) return bad(name, "is not a whole number");
  // What is beyond int64 reads as negative or as its largest value.
  const bool huge = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX;
  const std::int64_t number = huge ? INT64_MAX : value->get<std::int64_t>();
  if (number < least || number > most)
    return bad(name, fmt::format("is {}; {} to {} are possible", number, least, most));
  return static_cast<int>(number);
}

Result<std::optional<double>> Fields::number(std::string_view name, double least, double most) const {
  const Json* value = find(name);
  if (value == nullptr) return std::optional<double>();
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= least && number <= most)) return bad(name, fmt::format("is not a number from {} to {}", least, most));
  return number;
}

Result<std::optional<Fields>> Fields::object(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::optional<Fields>();
  if (!value->is_object()) return bad(name, "is not an object");
  return Fields(*value, place_, fmt::format("{}{}.", prefix_, name));
}

Result<int> Fields::size(std::string_view name, int most, std::optional<int> otherwise) const {
  const auto found = TRY(whole(name, 1, most));
  if (found) return *found;
  if (otherwise) return *otherwise;
  return bad(name, "is missing");
}

Result<double> Fields::positive(std::string_view name, std::optional<double> otherwise) const {
  const auto found = TRY(number(name, 1e-30, 1e30));
  if (found) return *found;
  if (otherwise) return *otherwise;
  return bad(name, "is missing");
}

Result<std::optional<FieldsFile>> FieldsFile::open(const std::string& path) {
  const auto file = MappedFile::open(path);
  if (!file && file.error().code == Code::not_found) return std::optional<FieldsFile>();
  if (!file) return std::unexpected(file.error());
  const auto bytes = file->bytes();
  return TRY(parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path));
}

Result<FieldsFile> FieldsFile::read(std::string_view text, std::string place) {
  FieldsFile file = TRY(parse(text, std::move(place)));
  if (!file.json.is_object()) return Error{Code::corrupt, fmt::format("{}: not a JSON object", file.place)};
  return file;
}

}  // namespace ashlar::models
