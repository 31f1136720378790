// The word that was probably meant.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ashlar {

// "; did you mean 'models'?" for "modles", or nothing where no word of `known` is near: at most a third of its letters
// changed, added, left out or swapped with their neighbour.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace ashlar
