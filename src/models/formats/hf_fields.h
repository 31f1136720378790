// The members of a JSON object that a folder's publisher wrote, each checked as it is read: a member that is null
// counts as absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json_full.h"
#include "base/result.h"

namespace ashlar::models {

class Fields {
 public:
  // `object` must outlive this. `place`: "folder/config.json"; `prefix`: "rope_scaling.", or nothing.
  Fields(const Json& object, std::string place, std::string prefix = {})
      : object_(&object), place_(std::move(place)), prefix_(std::move(prefix)) {}

  // "folder/config.json: "rope_scaling.factor" WHAT"
  Error bad(std::string_view name, std::string_view what, Code code = Code::corrupt) const;
  Error unsupported(std::string_view name, std::string_view what) const { return bad(name, what, Code::unsupported); }

  const std::string& place() const { return place_; }
  bool contains(std::string_view name) const { return object_->is_object() && object_->contains(name); }

  // nullptr: absent or null, or no object at all.
  const Json* find(std::string_view name) const;

  // Empty where it is absent; corrupt: of another type.
  Result<std::optional<bool>> flag(std::string_view name) const;
  Result<std::optional<std::string>> text(std::string_view name) const;
  Result<std::optional<int>> whole(std::string_view name, int least, int most) const;
  Result<std::optional<double>> number(std::string_view name, double least, double most) const;
  // An object's members.
  Result<std::optional<Fields>> object(std::string_view name) const;

  // A whole number in [1, most] that must be there unless `otherwise` is given.
  Result<int> size(std::string_view name, int most, std::optional<int> otherwise = std::nullopt) const;
  // A number above 0 that a float holds, and its inverse too.
  Result<double> positive(std::string_view name, std::optional<double> otherwise = std::nullopt) const;

 private:
  const Json* object_;
  std::string place_, prefix_;
};

// One JSON file of a folder.
struct FieldsFile {
  std::string place;
  Json json;

  Fields fields() const { return {json, place}; }
  // Empty: there is no such file. corrupt: more than 4 MiB, not JSON, or a name twice in an object.
  static Result<std::optional<FieldsFile>> open(const std::string& path);
  // The same of its text, which must be an object.
  static Result<FieldsFile> read(std::string_view text, std::string place);
};

}  // namespace ashlar::models
