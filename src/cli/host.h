// Models made ready to answer: each with its engine and its reader, loaded when
// they are needed, behind one face. Used by serve and run.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/generator.h"
#include "engine/text_reader.h"
#include "models/packed_cache.h"
#include "store/model_store.h"

namespace ashlar::cli {

// The model inside this program.
inline constexpr const char* kDefaultModel = "ashlar-assistant";

struct HostOptions {
  engine::EngineOptions engine;
  engine::TextReaderOptions reader;
  models::PackedCacheOptions packed_cache;
  store::StoreOptions store = store::store_options_from_environment();
  std::string draft_model;
  std::string keep_alive = "-1";
  int max_loaded_models = 0;
  std::string isa;
  std::vector<std::string> adapter;
  int threads = 0;
  void fields(auto&& field) {
    engine.fields(field);
    reader.fields(field);
    packed_cache.fields(field);
    store.fields(field);
    field("draft_model", draft_model,
          "A small model of the same vocabulary that guesses tokens ahead for the models served: a GGUF file or a Hugging Face folder.");
    field("keep_alive", keep_alive,
          "A model that nobody has asked for so long leaves memory and comes back when it is asked for: 5m, 1h, 90 (seconds); 0: at once; "
          "-1: it stays until another needs its room.");
    field("max_loaded_models", max_loaded_models,
          "Most of the models served that are in memory at once, the longest unused leaves first; 0: as many as fit.");
    field("adapter", adapter,
          "NAME=PATH of a LoRA adapter, a PEFT folder or a GGUF file, served as NAME beside its model; MODEL:NAME=PATH "
          "where several models are served. May be given many times.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("isa", isa, "Use the kernels of this instruction set instead of the best that this processor has.");
  }
};

// A model to be served, as it lies on the disk.
struct HostedModel {
  std::string name, path;
  std::string stamp;  // of its files: another once they are others
  bool operator==(const HostedModel&) const = default;
};
// `text`: the path of a GGUF file or a Hugging Face folder, the name of a pulled model, NAME= any of these, or
// kDefaultModel. A path's served name is its file name without ".gguf", or the folder's; a pulled model's the one that
// was typed. not_found, invalid.
Result<HostedModel> find_hosted(const std::string& text, const HostOptions& options);
// The models of these texts. invalid: also two of one name.
Result<std::vector<HostedModel>> find_all_hosted(const std::vector<std::string>& texts, const HostOptions& options);

// What became of models that were to be brought.
struct BroughtModels {
  std::vector<std::string> added, replaced;
  std::vector<std::pair<std::string, Error>> refused;  // these are as they were
};

class Host {
 public:
  // Those of `models`, as find_hosted() reads them; none, where others are brought later.
  static Result<std::unique_ptr<Host>> open(const std::vector<std::string>& models, const HostOptions& options);
  virtual ~Host() = default;

  // Whether such a model can be served, by a glance at its files.
  virtual Status check(const HostedModel& model) const = 0;
  // Serves these too, each in the place of the one of its name if that is another: once it is loaded and has answered a
  // short request. One more where memory or max_loaded_models is full is loaded when it is asked for. Waits for all
  // that. One thread at a time, as the next.
  virtual BroughtModels bring(const std::vector<HostedModel>& models) = 0;
  // Takes away all others; requests under way end on them. Their names.
  virtual std::vector<std::string> keep_only(const std::vector<HostedModel>& models) = 0;

  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;  // of the models that embed
  virtual engine::Reranker& reranker() = 0;  // of those that rank
  virtual const std::vector<std::string>& models() const = 0;  // served names, in order
  virtual std::vector<std::string> loaded() const = 0;         // those in memory now
  // As Residents::unload().
  virtual Status unload(const std::string& model) = 0;
  // Models that nobody uses leave memory, until they are asked for.
  virtual void unload_idle() = 0;
  // Who answers where nobody is named: the first adapter, else the first model.
  virtual const std::string& first() const = 0;
};

}  // namespace ashlar::cli
