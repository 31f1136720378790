#include "cli/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/duration.h"
#include "cli/default_model.h"
#include "cli/host_model.h"
#include "cli/stored_model.h"
#include "engine/residents.h"
#include "kernels/kernels.h"

namespace ashlar::cli {
namespace {

struct Named {
  std::string name, path;
};

// The file of the embedded model, of a path, or of a pulled model.
Result<std::string> path_of(const std::string& model, const HostOptions& options) {
  return model == kDefaultModel ? default_model_path() : find_model(model, options.store);
}

// "NAME=MODEL" or a model. A file whose own name holds a "=" is taken as it is.
Result<Named> parse_model(const std::string& text, const HostOptions& options) {
  if (text.empty()) return Error{Code::invalid, "--model: expected a model or NAME=MODEL"};
  const bool exists = std::filesystem::exists(text);
  const auto equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && !exists && !store::looks_like_reference(text)) {
    const std::string model = text.substr(equals + 1);
    if (model.empty()) return Error{Code::invalid, fmt::format("--model: '{}' names no file after the '='", text)};
    return Named{text.substr(0, equals), TRY(path_of(model, options))};
  }
  const std::string found = TRY(path_of(text, options));
  if (!exists) return Named{text, found};
  const auto path = std::filesystem::absolute(found).lexically_normal();
  std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();  // "folder/", too
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return Named{name, found};
}

// The pool outlives the models.
class LoadedHost final : public Host {
 public:
  explicit LoadedHost(const HostOptions& options)
      : options_(options),
        shared_{.pool = std::make_shared<ThreadPool>(options.threads, /*pin=*/true),
                .turns = std::make_shared<engine::ComputeLock>()} {}

  Status open(const std::vector<std::string>& models) {
    const auto keep_alive = parse_duration(options_.keep_alive);
    if (!keep_alive) return Error{Code::invalid, "--keep-alive: " + keep_alive.error().message};
    if (!options_.draft_model.empty()) {
      const std::string path = TRY(path_of(options_.draft_model, options_));
      TRY(load_draft(path, options_, shared_));
    }
    std::vector<engine::ResidentModel> all;
    for (const std::string& text : models) {
      const auto [name, path] = TRY(parse_model(text, options_));
      all.push_back(TRY(host_model(name, path, shared_, options_)));
      names_.push_back(name);
    }
    const std::vector<engine::ResidentModel> plan = all;
    residents_ = TRY(engine::Residents::create(
        std::move(all),
        {.keep_alive = *keep_alive, .max_loaded = options_.max_loaded_models, .available = engine::available_memory}));
    // An adapter brings its model, so that one which does not fit it is told of now.
    for (const std::string& adapter : options_.adapter) TRY(add_adapter(adapter));
    return preload(plan);
  }

  engine::Generator& generator() override { return *residents_; }
  engine::Embedder& embedder() override { return *residents_; }
  engine::Reranker& reranker() override { return *residents_; }
  const std::vector<std::string>& models() const override { return names_; }
  void unload_idle() override { residents_->unload_idle(); }
  const std::string& first() const override { return adapters_.empty() ? names_.front() : adapters_.front(); }

 private:
  // "NAME=PATH" is of the first model, "MODEL:NAME=PATH" of that one.
  Status add_adapter(const std::string& text) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
      return Error{Code::invalid, fmt::format("--adapter: '{}' is not NAME=PATH", text)};
    engine::AdapterOrder order{.name = text.substr(0, equals), .path = text.substr(equals + 1)};
    for (const std::string& model : names_)
      if (order.name.starts_with(model + ":")) {
        order.model = model;
        order.name = order.name.substr(model.size() + 1);
        break;
      }
    adapters_.push_back(order.name);
    return engine::add_adapter(*residents_, std::move(order));
  }

  // As many as fit, in their order.
  Status preload(const std::vector<engine::ResidentModel>& models) {
    for (const engine::ResidentModel& model : models) {
      const std::vector<std::string> loaded = residents_->loaded();
      if (std::ranges::find(loaded, model.card.id) != loaded.end()) continue;
      const bool full = options_.max_loaded_models > 0 && std::ssize(loaded) >= options_.max_loaded_models;
      if (full || (!loaded.empty() && model.bytes > engine::available_memory())) break;
      TRY(residents_->preload(model.card.id));
    }
    return {};
  }

  const HostOptions options_;
  SharedParts shared_;
  std::vector<std::string> names_, adapters_;
  std::unique_ptr<engine::Residents> residents_;
};

}  // namespace

Result<std::unique_ptr<Host>> Host::open(const std::vector<std::string>& models, const HostOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  auto host = std::make_unique<LoadedHost>(options);
  TRY(host->open(models));
  return host;
}

}  // namespace ashlar::cli
