#include "cli/host.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "base/contains.h"
#include "base/duration.h"
#include "base/log.h"
#include "cli/default_model.h"
#include "cli/host_model.h"
#include "cli/stored_model.h"
#include "engine/residents.h"
#include "engine/warm_up.h"
#include "kernels/kernels.h"

namespace ashlar::cli {
namespace {

constexpr std::chrono::seconds kWarmUp{120};
constexpr int kMostStamped = 10'000;  // files of a folder

// What tells a file from one that took its place: where it lies, which it is, how long, of when.
void stamp_file(const std::filesystem::path& path, std::string& out) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return;
  out += fmt::format("{}:{}:{}:{}.{};", path.filename().string(), found.st_ino, found.st_size, found.st_mtim.tv_sec,
                     found.st_mtim.tv_nsec);
}

std::string stamp_of(const std::filesystem::path& path) {
  std::string out;
  std::error_code failed;
  if (!std::filesystem::is_directory(path, failed)) {
    stamp_file(path, out);
    return out;
  }
  std::vector<std::filesystem::path> files;
  for (auto each = std::filesystem::directory_iterator(path, failed);
       !failed && each != std::filesystem::directory_iterator() && std::ssize(files) < kMostStamped;
       each.increment(failed))
    files.push_back(each->path());
  std::ranges::sort(files);
  for (const auto& file : files) stamp_file(file, out);
  return out;
}

// The file of the embedded model, of a path, or of a pulled model.
Result<std::string> path_of(const std::string& model, const HostOptions& options) {
  return model == kDefaultModel ? default_model_path() : find_model(model, options.store);
}

// "NAME=MODEL" or a model. A file whose own name holds a "=" is taken as it is.
Result<HostedModel> named_model(const std::string& text, const HostOptions& options) {
  if (text.empty()) return Error{Code::invalid, "--model: expected a model or NAME=MODEL"};
  const bool exists = std::filesystem::exists(text);
  const auto equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && !exists && !store::looks_like_reference(text)) {
    const std::string model = text.substr(equals + 1);
    if (model.empty()) return Error{Code::invalid, fmt::format("--model: '{}' names no file after the '='", text)};
    return HostedModel{.name = text.substr(0, equals), .path = TRY(path_of(model, options)), .stamp = {}};
  }
  const std::string found = TRY(path_of(text, options));
  if (!exists) return HostedModel{.name = text, .path = found, .stamp = {}};
  const auto path = std::filesystem::absolute(found).lexically_normal();
  std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();  // "folder/", too
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return HostedModel{.name = name, .path = found, .stamp = {}};
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
      HostedModel model = TRY(find_hosted(text, options_));
      all.push_back(TRY(host_model(model.name, model.path, shared_, options_)));
      names_.push_back(model.name);
      hosted_.push_back(std::move(model));
    }
    const std::vector<engine::ResidentModel> plan = all;
    residents_ = TRY(engine::Residents::create(
        std::move(all),
        {.keep_alive = *keep_alive, .max_loaded = options_.max_loaded_models, .available = engine::available_memory}));
    // An adapter brings its model, so that one which does not fit it is told of now.
    for (const std::string& adapter : options_.adapter) TRY(add_adapter(adapter));
    return preload(plan);
  }

  Status check(const HostedModel& model) const override {
    TRY(host_model(model.name, model.path, shared_, options_));
    return {};
  }

  BroughtModels bring(const std::vector<HostedModel>& models) override {
    BroughtModels out;
    for (const HostedModel& model : models) {
      const auto known = std::ranges::find(hosted_, model.name, &HostedModel::name);
      if (known != hosted_.end() && *known == model) continue;
      if (const Status done = put(model, known != hosted_.end()); !done) {
        out.refused.emplace_back(model.name, done.error());
        continue;
      }
      (known != hosted_.end() ? out.replaced : out.added).push_back(model.name);
      if (known != hosted_.end())
        *known = model;
      else
        hosted_.push_back(model);
    }
    return out;
  }

  std::vector<std::string> keep_only(const std::vector<HostedModel>& models) override {
    std::vector<std::string> gone;
    for (const HostedModel& each : hosted_)
      if (std::ranges::find(models, each.name, &HostedModel::name) == models.end()) gone.push_back(each.name);
    for (const std::string& name : gone)
      if (const Status done = residents_->remove(name); !done)
        log::warn("model_not_removed", {{"model", name}, {"why", done.error().message}});
    std::erase_if(hosted_, [&](const HostedModel& each) { return contains(gone, each.name); });
    return gone;
  }

  engine::Generator& generator() override { return *residents_; }
  engine::Embedder& embedder() override { return *residents_; }
  engine::Reranker& reranker() override { return *residents_; }
  const std::vector<std::string>& models() const override { return names_; }
  std::vector<std::string> loaded() const override { return residents_->loaded(); }
  Status unload(const std::string& model) override { return residents_->unload(model); }
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

  Status put(const HostedModel& model, bool replaces) {
    engine::ResidentModel resident = TRY(host_model(model.name, model.path, shared_, options_));
    if (!replaces && !fits(resident.bytes)) return residents_->add(std::move(resident));
    return residents_->put(std::move(resident), [&](const engine::Resident& loaded) {
      return engine::warm_up(loaded, model.name, kWarmUp);
    });
  }

  // Beside those that are loaded.
  bool fits(Bytes bytes) const {
    const auto loaded = std::ssize(residents_->loaded());
    const bool full = options_.max_loaded_models > 0 && loaded >= options_.max_loaded_models;
    return !full && (loaded == 0 || bytes <= engine::available_memory());
  }

  // As many as fit, in their order.
  Status preload(const std::vector<engine::ResidentModel>& models) {
    for (const engine::ResidentModel& model : models) {
      const std::vector<std::string> loaded = residents_->loaded();
      if (std::ranges::find(loaded, model.card.id) != loaded.end()) continue;
      if (!fits(model.bytes)) break;
      TRY(residents_->preload(model.card.id));
    }
    return {};
  }

  const HostOptions options_;
  SharedParts shared_;
  std::vector<std::string> names_, adapters_;  // of the beginning
  std::vector<HostedModel> hosted_;
  std::unique_ptr<engine::Residents> residents_;
};

}  // namespace

Result<HostedModel> find_hosted(const std::string& text, const HostOptions& options) {
  HostedModel model = TRY(named_model(text, options));
  model.stamp = stamp_of(model.path);
  return model;
}

Result<std::vector<HostedModel>> find_all_hosted(const std::vector<std::string>& texts, const HostOptions& options) {
  std::vector<HostedModel> out;
  for (const std::string& text : texts) {
    HostedModel model = TRY(find_hosted(text, options));
    if (contains(out, model.name, &HostedModel::name))
      return Error{Code::invalid, fmt::format("two models are to be served as '{}'", model.name)};
    out.push_back(std::move(model));
  }
  return out;
}

Result<std::unique_ptr<Host>> Host::open(const std::vector<std::string>& models, const HostOptions& options) {
  if (!options.isa.empty()) TRY(kernels::select_isa(options.isa));
  auto host = std::make_unique<LoadedHost>(options);
  TRY(host->open(models));
  return host;
}

}  // namespace ashlar::cli
