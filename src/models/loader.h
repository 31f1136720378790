// From a path to a model that can be served.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "base/threads.h"
#include "models/config.h"
#include "models/encoder.h"
#include "models/formats/gguf.h"
#include "models/formats/gguf_vocabulary.h"
#include "models/formats/hf_config.h"
#include "models/model.h"
#include "models/packed_cache.h"

namespace ashlar::models {

struct LoadOptions {
  bool weights = true;                      // false: the file's facts and vocabulary only
  int max_rows = 512;                       // a step of more rows is run in pieces of this many
  int max_text_tokens = 8192;               // an encoder reads texts of so many tokens, if its context holds them
  std::optional<PackedCache> packed_cache;  // where packed weights are looked for, and kept for the next start
};

// What a file says of itself: for `ashlar show` and /v1/models.
struct ModelFacts {
  std::string name;          // general.name, else the file's
  std::string architecture;  // empty: a file without a model
  std::string file_type;     // "Q4_K_M"; what general.file_type says, else the type of most bytes
  std::int64_t parameters = 0;
  Bytes bytes;                              // of all its files
  std::map<std::string, Bytes> type_bytes;  // of the tensors of each type
  SamplingAdvice sampling;                  // what its publisher advises
};

struct LoadedModel {
  std::shared_ptr<const gguf::File> file;
  ModelFacts facts;
  Shape shape;                  // of a vocabulary-only file: the vocabulary's size, else zeros
  text::Vocabulary vocabulary;  // empty tokens: the file has none
  ChatTemplates templates;
  std::optional<Config> config;                              // of a file with tensors
  std::unique_ptr<Model> model;                              // nullptr: no weights in the file, or none wanted,
  std::unique_ptr<Encoder> encoder;                          // or it is an encoder, which is here
  PackedImage::Origin weights = PackedImage::Origin::fresh;  // where they came from
};

// Opens a GGUF file (any part of a split model) or a Hugging Face folder. Errors: as gguf::File::open() and
// open_folder().
Result<gguf::File> open_file(const std::string& path);

// The same where the weights are of no use: of a folder, its vocabulary and templates alone.
Result<gguf::File> open_text(const std::string& path);

// Opens `path` (as open_file()), checks everything and packs the
// weights on the pool, which must outlive the model. A file without tensors
// gives its vocabulary. not_found, io: the file; corrupt, unsupported: what it
// holds, in one sentence; exhausted: no memory.
Result<LoadedModel> load(const std::string& path, const LoadOptions& options, ThreadPool& pool);

// The same for a file that is open, or in memory.
Result<LoadedModel> load(gguf::File file, const LoadOptions& options, ThreadPool& pool);

// load() in two halves, for who has use for the vocabulary meanwhile: all but the
// model, and the model of what has tensors. The first half is quick.
Result<LoadedModel> open_model(gguf::File file);
Status load_weights(LoadedModel& loaded, const LoadOptions& options, ThreadPool& pool);

// Whether load_weights() will find every tensor that the architecture needs, as it needs it, and no other. corrupt,
// unsupported: as TensorList::check().
Status check_tensors(const LoadedModel& model);

}  // namespace ashlar::models
