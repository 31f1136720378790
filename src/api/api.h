// The room's front: takes every HTTP request and finds who answers it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/embedder.h"
#include "engine/generator.h"
#include "engine/reranker.h"
#include "gateway/identity/identity.h"
#include "net/http.h"

namespace ashlar::gateway {
class EventLog;
}

namespace ashlar::api {

struct AdminOperation;
class Keys;

struct ApiOptions {
  std::vector<std::string> api_key;
  std::string api_key_file;
  std::string adapter_folder;
  std::string cors_origin;
  std::chrono::milliseconds sse_ping{15'000};
  void fields(auto&& field) {
    field("api_key", api_key,
          "A key that clients must show (Authorization: Bearer, or x-api-key). May be given many times.");
    field("api_key_file", api_key_file, "File of such keys: one on each line, # begins a comment.");
    field("adapter_folder", adapter_folder,
          "Folder of the LoRA adapters that clients may load at run time (POST /v1/load_lora_adapter); without one, "
          "clients may only where there are no API keys.");
    field("cors_origin", cors_origin, "Web origin whose pages may call this server, or * for all; none by default.");
    field("sse_ping", sse_ping,
          "Milliseconds of silence after which a stream gets a comment, so that no proxy closes it.");
  }
};

// Made before the server listens and destroyed after the server is gone, but
// before the generator. Any thread may call.
class Api {
 public:
  // Keys are read. invalid, not_found: a key or the key file is unfit;
  // forbidden: without keys, `host` must be a loopback address;
  // `identity`, which may be null, says who else may ask: keys that are kept, tokens, certificates.
  static Result<std::unique_ptr<Api>> create(const ApiOptions& options, const std::string& host,
                                             std::unique_ptr<gateway::Identity> identity = nullptr);
  virtual ~Api() = default;  // cancels what is still under way

  // For HttpServer::listen. Until serve(), all but the open routes answer 503.
  virtual net::Handler handler() = 0;
  // What is served under /admin/v1/, which until then answers 503; once. `events`, which may be null, gets what was
  // changed and by whom; it and what the operations work on outlive this.
  virtual void set_admin(std::vector<AdminOperation> operations, gateway::EventLog* events) = 0;
  // Waits for operations that run; others are answered 503 from now on.
  virtual void end_admin() = 0;
  // The generator is loaded: requests are served from now on.
  // `embedder` and `reranker`: null where no model is such; they outlive this as the generator does.
  // `troubles`, if any, says what an operator should know, a sentence each: for /api/status, and how many for /health.
  virtual void serve(engine::Generator& generator, engine::Embedder* embedder = nullptr,
                     engine::Reranker* reranker = nullptr,
                     std::function<std::vector<std::string>()> troubles = nullptr) = 0;
  // Who wants to know how good clients find their answers (0 to 1), by the answers' names; it says whether that counts.
  // Before serve(); what is behind it outlives this.
  virtual void set_feedback(std::function<Result<bool>(const std::string& answer, double score,
                                                       const std::string& tenant, const engine::Sender& who)>
                                feedback) = 0;
  // What answers to `who` say of his limits, x-ratelimit-..., where those on the request's way said nothing. As above.
  virtual void set_rates(
      std::function<net::Headers(const gateway::Principal& who, const std::string& tenant)> rates) = 0;
  // The keys of the command line, from now on; requests under way go on. Whether the server may stand open without is
  // the caller's to ask: check_exposure().
  virtual void set_keys(Keys keys) = 0;
  // New work is answered 503 from now on; what runs, goes on.
  virtual void drain() = 0;
};

}  // namespace ashlar::api
