// How this folder writes lists into columns, and how a change of keys or teams is told to all who hold them in memory.
#pragma once

#include <string>
#include <vector>

#include "gateway/identity/principal.h"
#include "store/database.h"

namespace ashlar::gateway {

// Another number in the row that KeyRing watches. Random, so that a restored copy of the database shows as a change
// too.
store::Statement next_keys_generation();

std::string list_json(const std::vector<std::string>& list);
std::vector<std::string> read_list(const store::Value& value);
std::string tags_json(const Tags& tags);
Tags read_tags(const store::Value& value);

}  // namespace ashlar::gateway
