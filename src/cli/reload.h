// The configuration of a running server: watched, read anew when it changes, and applied as a whole or refused as one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "api/admin.h"
#include "base/json_full.h"
#include "base/result.h"
#include "cli/serve_plan.h"
#include "gateway/events/event_log.h"

namespace ashlar::cli {

struct ReloadOptions {
  std::chrono::milliseconds look{250};  // how often files are looked at; a change counts once it is seen twice
  std::chrono::milliseconds turn{1000};
};

// Its own thread watches, and everything that is applied is so under one lock: changes come one after another. Any
// thread may call.
class Reloader {
 public:
  struct Outcome {
    std::vector<std::string> made;     // "+upstream fast", "~limits"
    std::vector<std::string> refused;  // parts that stay as they were though the rest was applied: sentences
  };
  struct Parts {
    // As read_serve_plan().
    std::function<ReadServePlan(const std::string* text)> read;
    // From what holds to what shall, of which it may take what it needs. An error: nothing has changed.
    std::function<Result<Outcome>(const ServePlan& before, ServePlan& next)> apply;
    std::function<void()> turn;           // called each ReloadOptions::turn; may be empty
    gateway::EventLog* events = nullptr;  // outlives it; null: none
  };

  // `running`: what the server was started with, read from `files`.
  Reloader(Parts parts, ServePlan running, std::vector<std::string> files, ReloadOptions options = {});
  ~Reloader();  // waits for what is being applied

  // Reads everything and applies it. Answers {"changes": [...], "refused": [...], "waits_for_restart": [...]}. Errors:
  // every fault, a line each; then all is as it was.
  Result<Json> reload(const std::string& actor);
  // The faults of a text in the place of the configuration file's; [] where it is fine.
  Json check(const std::string& text) const;
  // What holds, since when, what waits for a restart, and what was refused last.
  Json status() const;

  // reload(), on the reloader's thread. May be called by whoever takes signals.
  void request();

  std::chrono::milliseconds drain_timeout() const;  // as it is now

 private:
  // What tells one state of a file from another; "": it is not there.
  using Stamps = std::map<std::string, std::string>;
  struct Refusal {
    std::int64_t at_ms = 0;
    std::string why;
  };

  Result<Json> apply(ServePlan next, const std::string& actor);
  void refuse(const Error& why, const std::string& actor);
  static Stamps look(const std::vector<std::string>& files);
  void work(const std::stop_token& stop);

  const Parts parts_;
  const ReloadOptions options_;
  const ServeOptions at_start_;
  std::mutex changing_;  // taken before mutex_, held while something is applied

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::shared_ptr<const ServePlan> running_;  // GUARDED_BY(mutex_), as is the rest
  std::vector<std::string> files_;            // watched
  std::int64_t applied_ms_ = 0;
  std::vector<std::string> waiting_;  // for a restart
  std::vector<std::string> kept_;     // what Outcome::refused said last
  std::optional<Refusal> refused_;
  bool requested_ = false;
  Stamps tried_;  // as the files were when they were last read
  std::jthread thread_;
};

// GET /admin/v1/config, POST /admin/v1/config/check and POST /admin/v1/config/reload. `reloader` outlives them; null: they
// are listed, and never run.
std::vector<api::AdminOperation> config_operations(Reloader* reloader);

}  // namespace ashlar::cli
