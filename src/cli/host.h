// Models made ready to answer: loaded, each with its engine, behind one
// Generator. Used by serve and run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/generator.h"
#include "models/packed_cache.h"

namespace ashlar::cli {

// The model inside this program.
inline constexpr const char* kDefaultModel = "ashlar-assistant";

struct HostOptions {
  engine::EngineOptions engine;
  models::PackedCacheOptions packed_cache;
  std::string draft_model;
  std::string isa;
  int threads = 0;
  void fields(auto&& field) {
    engine.fields(field);
    packed_cache.fields(field);
    field("draft_model", draft_model,
          "A small model of the same vocabulary that guesses tokens ahead for the models served: a GGUF file or a Hugging Face folder.");
    field("threads", threads, "Threads that compute; 0: one for each core.");
    field("isa", isa, "Use the kernels of this instruction set instead of the best that this processor has.");
  }
};

class Host {
 public:
  // `models`: paths of GGUF files or Hugging Face folders, or NAME=PATH, or kDefaultModel. A path's served name is its
  // file name without ".gguf", or the folder's.
  static Result<std::unique_ptr<Host>> open(const std::vector<std::string>& models, const HostOptions& options);
  virtual ~Host() = default;

  virtual engine::Generator& generator() = 0;
  virtual const std::vector<std::string>& models() const = 0;  // served names, in order
};

}  // namespace ashlar::cli
