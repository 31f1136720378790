// A short request to a model that was just loaded: whether it answers at all, before anybody else asks it.
#pragma once

#include <chrono>
#include <string>

#include "engine/residents.h"

namespace ashlar::engine {

// Waits for two tokens of an answer, a vector or a score, whatever the model called `model` gives. Errors: its own;
// deadline: it said nothing for so long.
Status warm_up(const Resident& resident, const std::string& model, std::chrono::milliseconds most);

}  // namespace ashlar::engine
