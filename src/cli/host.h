// Models made ready to answer: each with its engine and its reader, loaded when
// they are needed, behind one face. Used by serve and run.
#pragma once

#include <memory>
#include <string>
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

class Host {
 public:
  // `models`: paths of GGUF files or Hugging Face folders, names of pulled models, NAME= any of these, or kDefaultModel.
  // A path's served name is its file name without ".gguf", or the folder's; a pulled model's the one that was typed.
  static Result<std::unique_ptr<Host>> open(const std::vector<std::string>& models, const HostOptions& options);
  virtual ~Host() = default;

  virtual engine::Generator& generator() = 0;
  virtual engine::Embedder& embedder() = 0;  // of the models that embed
  virtual engine::Reranker& reranker() = 0;  // of those that rank
  virtual const std::vector<std::string>& models() const = 0;  // served names, in order
  // Models that nobody uses leave memory, until they are asked for.
  virtual void unload_idle() = 0;
  // Who answers where nobody is named: the first adapter, else the first model.
  virtual const std::string& first() const = 0;
};

}  // namespace ashlar::cli
