// What is made of a text's rows, by what a folder says: sentence-transformers' modules, a classifier's labels.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/formats/hf_fields.h"
#include "models/pooling.h"

namespace ashlar::models {

// What modules.json says; empty: there is no such file. unsupported: a pooling or a module that is not computed here,
// a model that lies in a folder of its own.
Result<std::optional<Pooling>> open_hf_pooling(const std::string& folder);

// "id2label" of config.json: {"0": "no", "1": "yes"}. Empty where a library made the names up.
std::vector<std::string> read_labels(const Fields& fields);

}  // namespace ashlar::models
