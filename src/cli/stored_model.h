// MODEL, as every command takes it: a path, or the name of a pulled model.
#pragma once

#include <string>

#include "base/result.h"
#include "store/model_store.h"

namespace ashlar::cli {

// A path that is there, as it is; else the pulled model of that name, every file
// of it checked, and fetched again where one is damaged. A word that is meant as a
// path is given back for whoever opens it to complain. not_found: neither, with
// the command to type; else as ModelStore::ready().
Result<std::string> find_model(const std::string& model,
                               const store::StoreOptions& options = store::store_options_from_environment());

// Whether find_model() would take it for a model at all.
bool names_model(const std::string& word, const store::StoreOptions& options);

}  // namespace ashlar::cli
