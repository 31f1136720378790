// How one API writes its answers: whole, or as the chunks of a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/generation.h"
#include "base/json.h"
#include "engine/generator.h"

namespace ashlar::api {

// The four parallel lists of a completion's logprobs, or (tokens alone) the
// `content` list of a chat's; each the inside of a JSON array.
struct LogprobLists {
  std::string tokens, token_logprobs, top_logprobs, text_offset;
};

// One of the answers asked for, as it grows.
struct Choice {
  int index = 0;
  int prompt = 0;                 // which of the request's prompts
  std::string text;               // so far; of a whole answer only
  std::vector<std::int32_t> ids;  // the same
  LogprobLists logprobs;          // the same
  std::string reasoning;          // so far; of a whole answer only, as are the next two
  std::vector<engine::ToolCall> calls;
  std::shared_ptr<Json> members;       // of engine::Members of the message, put together; null: none
  std::shared_ptr<Json> beside;        // the same of those of the choice itself
  std::string extras;                  // further members of the whole answer, as the dialect wrote them
  std::size_t characters = 0;          // that the listed tokens span: the next one's text_offset
  std::string finish_reason = "null";  // as JSON, as is the next
  std::string stop_reason = "null";
};

// Called under the answer's lock. `out` gets whole server-sent events; when the
// answer is not a stream, the text is gathered in the choice instead.
class Dialect {
 public:
  virtual ~Dialect() = default;
  virtual void started(Choice& choice, const engine::Started& started, std::string& out) = 0;
  virtual void text(Choice& choice, const engine::Text& text, const engine::Usage& usage, std::string& out) = 0;
  // What only a chat's answers have, but for members of a choice and of the whole answer.
  virtual void reasoning(Choice&, const engine::Reasoning&, const engine::Usage&, std::string&) {}
  virtual void tool_call(Choice&, const engine::ToolCall&, const engine::Usage&, std::string&) {}
  virtual void members(Choice&, const engine::Members&, const engine::Usage&, std::string&) {}
  virtual void ended(Choice& choice, const engine::Usage& usage, std::string& out) = 0;
  // The chunk of stream_options.include_usage.
  virtual void usage(const engine::Usage& usage, std::string& out) = 0;
  virtual std::string whole(std::span<const Choice> choices, const engine::Usage& usage) = 0;
};

// {"prompt_tokens":...}, with details always.
std::string usage_json(const engine::Usage& usage);
// Members of a choice or an answer that came in pieces (Azure's filter results): of two verdicts the stricter stays.
void put_beside(Json& kept, const Json& more);
// ,"name":value for each member; null: nothing.
void append_members(std::string& out, const Json* object);
// A JSON number; what JSON cannot say (-inf, nan) becomes -9999, as clients know it.
void append_logprob(std::string& out, float logprob);
// A token's text as a JSON string. Bytes that are no whole characters are
// written "bytes:\xe2\x82"; with `as_id`, every token is "token_id:123".
void append_token(std::string& out, std::int32_t id, std::string_view bytes, bool as_id);
// [1,2,3]
void append_ids(std::string& out, std::span<const std::int32_t> ids);
// vLLM's prompt_logprobs: null for the first token, then one object per token
// from id to {logprob, rank, decoded_token}.
std::string prompt_logprobs_json(std::span<const engine::TokenLogprob> logprobs);

}  // namespace ashlar::api
