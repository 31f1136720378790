// A folder of models in versions, DIR/NAME/VERSION/, followed while the server runs: VERSION is a whole number, and
// holds a GGUF file or what a Hugging Face folder does. The highest that can be served is served as NAME.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/host.h"

namespace ashlar::cli {

struct RepositoryOptions {
  std::string model_repository;
  int model_versions = 1;
  void fields(auto&& field) {
    field("model_repository", model_repository,
          "Folder of models in versions, NAME/VERSION/ with a GGUF file or a Hugging Face model in it: the highest "
          "version is served as NAME. A version that appears later is served once it is whole, and the one before it "
          "comes back where it disappears.");
    field("model_versions", model_versions,
          "How many of a model's highest versions in --model-repository are served at once, each as NAME@VERSION; 1: "
          "the highest alone, as NAME.");
  }
};

// invalid: values that no repository can have. Looks at no file.
Status check_options(const RepositoryOptions& options);

// One thread.
class ModelRepository {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  // A new folder's files must have been the same for so long: then nobody writes it any more.
  static constexpr std::chrono::seconds kSettled{2};

  explicit ModelRepository(RepositoryOptions options) : options_(std::move(options)) {}

  // not_found: there is no such folder; invalid: a number out of range.
  Status check() const;

  // Looks at the folder. True: chosen() is another now. What lies there at the `first` look is taken as it is.
  bool turn(TimePoint now, bool first);

  // What is to be served.
  const std::vector<HostedModel>& chosen() const { return chosen_; }
  // "NAME", and what it stands for: the "NAME@VERSION" that is the highest, where versions are served by their own
  // names.
  const std::map<std::string, std::string>& aliases() const { return aliases_; }

  // What is chosen as `name` cannot be served: until its files change, or forgive(), the next lower version is.
  void refuse(const std::string& name);
  void forgive() { refused_.clear(); }

 private:
  struct Version {
    std::string stamp;  // of its files when they were last whole; "": they never were
    std::string seen;   // of its files now
    TimePoint since;    // they are so
  };
  using Versions = std::map<std::int64_t, Version, std::greater<>>;

  void look(TimePoint now, bool first);
  void look_at(const std::string& folder, Versions& versions, TimePoint now, bool first) const;
  void choose();

  const RepositoryOptions options_;
  std::map<std::string, Versions> models_;
  std::set<std::string> refused_;  // stamps
  std::vector<HostedModel> chosen_;
  std::map<std::string, std::string> aliases_;
};

// The model in such a folder: its one GGUF file (of several parts the first), itself where it has a config.json, or the
// one folder in it that does. not_found, invalid.
Result<std::string> model_in(const std::string& folder);

}  // namespace ashlar::cli
