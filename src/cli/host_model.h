// One model of a Host: what a glance at its files tells of it, and how it becomes
// an engine and what embeds or ranks.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/threads.h"
#include "cli/host.h"
#include "engine/compute_lock.h"
#include "engine/residents.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace ashlar::cli {

// What all models of a host share.
struct SharedParts {
  std::shared_ptr<ThreadPool> pool;
  std::shared_ptr<engine::ComputeLock> turns;
  std::shared_ptr<models::Model> draft;                    // null: none
  std::shared_ptr<const text::Tokenizer> draft_tokenizer;  // its own
};

// A model of the files at `path`, served as `name`, to be loaded when it is asked for; `shared` and `options` must
// outlive it. As open_file() and open_model(); invalid: it has no weights or no vocabulary.
Result<engine::ResidentModel> host_model(const std::string& name, const std::string& path, const SharedParts& shared,
                                         const HostOptions& options);

// Loads the model that guesses for the others. As models::load(); invalid: it has no weights or no vocabulary.
Status load_draft(const std::string& path, const HostOptions& options, SharedParts& shared);

}  // namespace ashlar::cli
