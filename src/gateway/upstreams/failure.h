// Why an attempt failed, in our words: from what an upstream answered, whatever shape its errors have, or from what its
// connection did.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "engine/generator.h"
#include "net/http.h"

namespace ashlar::gateway {

struct Failure {
  engine::Failed failed;
  bool unseen = false;  // the upstream did not look at the request
  bool retry = false;   // another attempt may go better: connect errors, 408, 429, 500, 502, 503, 504, 529
};

// An answer that is not 200. `body`: what came of it, perhaps not all. Bodies of OpenAI, vLLM (old and new),
// llama-server, TGI, FastAPI, Ollama, Anthropic, Azure, AWS, DashScope and Google are read; of HTML and the like only
// the status is told. What an upstream says of our key is not told to our clients.
Failure failure_of_answer(const std::string& upstream, int status, const net::Headers& headers, std::string_view body);

// An error object within a stream that had begun with 200: `error` is a value in any of the shapes above.
Failure failure_in_stream(const std::string& upstream, const Json& error);

// What the HTTP client says of a call that did not end well; `answered`: a head had come.
Failure failure_of_call(const std::string& upstream, const Error& error, bool answered);

// 200, but no answer: "UPSTREAM sent ...".
Failure nonsense(const std::string& upstream, std::string_view what);

}  // namespace ashlar::gateway
