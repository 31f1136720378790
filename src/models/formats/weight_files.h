// Which files of a folder are its safetensors, and what is said where there are none.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace ashlar::models::safetensors {

struct WeightFiles {
  std::string index;               // model.safetensors.index.json; empty: `files` are all there is
  std::vector<std::string> files;  // paths, in the order of their names; empty: the index names them
};

// model.safetensors, else the index, else the only safetensors file or all parts NAME-00001-of-00003 of one name;
// adapters and a publisher's own "consolidated" copies do not count. not_found: there are none, a part is missing, or
// several could be meant. unsupported: weights in another format, by name.
Result<WeightFiles> find_weights(const std::string& folder);

// A checkpoint whose name ends so is not opened at all.
bool is_pickle_name(const std::string& path);
Error refuse_pickle(const std::string& path);

}  // namespace ashlar::models::safetensors
