// OpenAI's chat and completions, as most servers speak them: the parts that kinds share.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gateway/upstreams/wire.h"

namespace ashlar::gateway {

// Reads a stream of chunks, or a whole answer where an upstream gives that instead.
std::unique_ptr<Reader> make_openai_reader(const engine::Request& request, const net::Headers& headers, Teller& teller);

// A chat's: {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}.
void add_chat_logprobs(const Json& logprobs, std::vector<engine::TokenLogprob>& out);

// {"data": [{"id", "max_model_len"...}]}, also Ollama's and TGI's variants of it.
Result<std::vector<Listed>> read_openai_list(std::string_view body);

// What an Ashlar is told beside the body, so that no two of our tenants share blocks there: a digest of the tenant and
// of what the client said itself.
std::string blocks_salt(const engine::Request& request);

// What the most tokens of a chat are called where its client named none and the gateway does. OpenAI's models that
// think refuse the older name; many other servers pass over the newer one, and would answer without end.
constexpr std::string_view kOlderMost = "max_tokens", kNewerMost = "max_completion_tokens";

// How answers are asked for.
struct OpenAiForm {
  bool stream = true;
  bool continuous_usage = false;  // of a stream: each piece comes with what was counted so far
  std::string_view most = kOlderMost;
};

// The body to be sent: what openai_body() says, with arguments of tool calls as texts, and how it is to be answered.
std::string openai_text(const engine::Request& request, const std::string& model, const OpenAiForm& form);
std::string openai_vectors_text(const engine::EmbedRequest& request, const std::string& model);

}  // namespace ashlar::gateway
