// What is made of an encoder's outputs: vectors of length 1, and shares of relevance.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace ashlar::engine {

// To length 1; a vector of zeros stays one.
void normalize(std::span<float> vector);

// Which score of a classifier says "relevant", by its labels ("yes"; else of two the second).
// unsupported: more than two, and none of them says.
Result<int> relevant_score(int outputs, const std::vector<std::string>& labels);

// From what the classifier says to a share from 0 to 1: of one score its logistic function, of several the share of
// the one that says "relevant".
float relevance(std::span<const float> scores, int relevant);

}  // namespace ashlar::engine
