#include "cli/stored_model.h"

#include <filesystem>

#include "cli/pull_screen.h"

namespace ashlar::cli {
namespace {

bool is_path(const std::string& word) {
  std::error_code failed;
  return std::filesystem::exists(word, failed);
}

bool is_meant_as_path(const std::string& word) {
  return word.starts_with('/') || word.starts_with("./") || word.starts_with("../") || word.starts_with("~");
}

}  // namespace

Result<std::string> find_model(const std::string& model, const store::StoreOptions& options) {
  if (is_path(model) || is_meant_as_path(model)) return model;
  const auto store = TRY(store::ModelStore::open(options));
  PullScreen screen(model);
  auto found = store->ready(model, screen.watch());
  if (found) return std::move(found->path);
  Error error = found.error();
  if (error.code == Code::not_found && model.ends_with(".gguf"))
    error.message = model + ": no such file, and " + error.message;
  return error;
}

bool names_model(const std::string& word, const store::StoreOptions& options) {
  if (is_path(word) || store::looks_like_reference(word)) return true;
  const auto store = store::ModelStore::open(options);
  if (!store) return false;
  const auto found = (*store)->find(word);
  return found || found.error().code != Code::not_found;
}

}  // namespace ashlar::cli
