// Members of JSON that strangers wrote: what is missing or of another kind reads
// as nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace ashlar::store {

// Null where `json` is no object, or has no such member.
const Json& member(const Json& json, std::string_view name);
std::string text_of(const Json& json, std::string_view name);                    // "": no text
std::optional<std::uint64_t> count_of(const Json& json, std::string_view name);  // nullopt: no whole number >= 0

}  // namespace ashlar::store
