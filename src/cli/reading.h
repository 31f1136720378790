// From a loaded model to what embeds or ranks with it.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/threads.h"
#include "engine/text_reader.h"
#include "models/loader.h"

namespace ashlar::cli {

struct Reading {
  std::string name;  // served
  const models::LoadedModel& loaded;
  std::shared_ptr<models::Model> model;      // of a decoder
  std::shared_ptr<models::Encoder> encoder;  // of an encoder
  std::shared_ptr<const text::Tokenizer> tokenizer;
  ThreadPool& pool;
  std::shared_ptr<engine::ComputeLock> turns;
  std::chrono::milliseconds request_timeout;
};

// The model was made to embed or to rank, not to generate: an encoder, or a decoder whose file names a pooling or
// calls it a reranker.
bool only_reads(const models::LoadedModel& loaded);
// Of those, what scores documents; the others make vectors.
bool ranks(const models::LoadedModel& loaded);

// Null: a generator for whose texts there is no memory. Of a generator, the last token's row is a text's vector.
// unsupported, exhausted: it was made to read, and cannot.
Result<std::unique_ptr<engine::TextReader>> make_reader(const Reading& reading,
                                                        const engine::TextReaderOptions& options);

}  // namespace ashlar::cli
