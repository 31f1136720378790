// Requests that end the process. Who ran when it crashed stands in a file that outlives it, by a hash of the prompt:
// the next process lets him run only while no other such request does, and not at all once he was there twice.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/events/event_log.h"

namespace ashlar::gateway {

// Of the model and the prompt, or the texts: what reaches the model's arithmetic.
std::uint64_t prompt_hash(const engine::Request& request);
std::uint64_t prompt_hash(const engine::EmbedRequest& request);
std::uint64_t prompt_hash(const engine::RerankRequest& request);

// Any thread.
class Quarantine {
 public:
  using Hash = std::uint64_t;
  // Held while a request runs. Outlived by its quarantine.
  class Pass {
   public:
    Pass(Quarantine& in, Hash hash, std::optional<std::uint32_t> slot) : in_(in), hash_(hash), slot_(slot) {}
    ~Pass() { in_.leave(*this); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    // It came to its end: the crash that it was there at was another's.
    void cleared() { in_.clear(hash_); }

   private:
    friend class Quarantine;
    Quarantine& in_;
    const Hash hash_;
    const std::optional<std::uint32_t> slot_;
  };

  // Reads what the process before left in `folder`, which is made; and has signals of crashes noted there from now on,
  // in one object of a process. `events` hears who is quarantined; it may be null, else it outlives this. io: there is
  // no file to be had.
  static Result<std::unique_ptr<Quarantine>> open(const std::string& folder, EventLog* events);
  ~Quarantine();

  // Refused: forbidden, of who was there twice; unavailable, of who was there once while another such one runs.
  std::expected<std::unique_ptr<Pass>, engine::Generator::Refusal> enter(Hash hash);
  // How many are refused.
  std::size_t held() const;

 private:
  struct File;
  Quarantine(int descriptor, File* file) : descriptor_(descriptor), file_(file) {}
  void take_over(EventLog* events);
  void leave(const Pass& pass);
  void clear(Hash hash);

  const int descriptor_;  // locked
  File* const file_;      // mapped
  mutable std::mutex mutex_;
  std::vector<std::uint32_t> free_;  // GUARDED_BY(mutex_), as are the suspects of the file
  std::optional<Hash> tried_;        // GUARDED_BY(mutex_): the suspect that runs now
  Counter refused_{"quarantine_refused_total",
                   "Requests that were refused because the server crashed on their prompt."};
};

// One over another whose requests run under the quarantine. All outlive their tickets, and what they began.
std::unique_ptr<engine::Generator> guarded(engine::Generator& inner, Quarantine& quarantine);
std::unique_ptr<engine::Embedder> guarded(engine::Embedder& inner, Quarantine& quarantine);
std::unique_ptr<engine::Reranker> guarded(engine::Reranker& inner, Quarantine& quarantine);

}  // namespace ashlar::gateway
