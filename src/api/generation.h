// What /v1/chat/completions and /v1/completions have in common: how a request is
// to be sampled, stopped and answered.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "api/errors.h"
#include "api/fields.h"
#include "engine/generator.h"
#include "net/http.h"

namespace ashlar::api {

struct Call;

// How an answer is to be written, as opposed to what is generated.
struct Reply {
  std::string id;     // "chatcmpl-..."
  std::string model;  // the served name
  std::int64_t created = 0;
  bool stream = false;
  bool include_usage = false;     // one more chunk at the end
  bool continuous_usage = false;  // usage on every chunk
  bool token_ids = false;         // prompt_token_ids and token_ids
  bool tokens_as_ids = false;     // "token_id:123" in logprobs
};

// The model that the member `model` names; without one, the only one served.
// not_found (model_not_found): no such model; forbidden: not for who asks.
Outcome<engine::ModelCard> find_model(const Call& call, const engine::Generator& generator, Fields& fields);

// The texts of the member `name`: a string, [string], [int] or [[int]]; at most `most` of them, none an empty array.
using TextInput = std::variant<std::string, std::vector<std::int32_t>>;
Outcome<std::vector<TextInput>> read_texts(Fields& fields, const std::string& name, int vocabulary, std::size_t most);

// Who sends it, and what their headers say of its way: x-session-id, x-ashlar-data-class (a list), cache-control,
// x-ashlar-explain.
void sign(const Call& call, const engine::ModelCard& model, engine::Request& request);
engine::Sender sender_of(const Call& call, const engine::ModelCard* model = nullptr);
std::vector<std::string> declared_classes(const net::Headers& headers);  // in small letters

// How many token ids a request may name: the model's, or any where its vocabulary is not known.
int id_limit(const engine::ModelCard& model);

// Fills sampling, stopping, n, priority, salt... (not max_tokens, logprobs and
// the prompt, which the two endpoints name differently). A priority counts as far as the caller may be urgent.
void read_generation(const Call& call, Fields& fields, const engine::ModelCard& model, engine::Request& request);

// No more tokens than the key that asks may have of one answer.
void cap_output(const Call& call, Fields& fields, engine::Stopping& stopping);

// The response's id begins with `prefix`, e.g. "chatcmpl-".
Reply read_reply(Fields& fields, const engine::ModelCard& model, std::string_view prefix);

// The tokens of the requests' prompts, if they are wanted: calls `then` with them, [requests], or with nothing; at
// once, or on another thread once the model is in memory. What goes wrong there is the exchange's answer.
using PromptIds = std::vector<std::vector<std::int32_t>>;
using Requests = std::vector<engine::Request>;
void with_prompt_ids(const std::shared_ptr<net::Exchange>& exchange, const engine::Generator& generator, bool wanted,
                     Requests requests, std::function<void(PromptIds, Requests)> then);

// `digits` random hexadecimal digits, for ids that must be unique but not secret.
std::string random_hex(int digits);
std::int64_t unix_seconds();

}  // namespace ashlar::api
