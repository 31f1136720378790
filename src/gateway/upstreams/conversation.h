// A request in OpenAI's form, taken apart for servers that have another.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/generator.h"

namespace ashlar::gateway {

// A part of what somebody says.
struct Piece {
  enum class Kind { text, picture, document, call, result, other };
  Kind kind = Kind::text;
  std::string text;                           // of text; of a result, all of it where `inner` is empty
  std::string media, base64;                  // of a picture or document that is in the request
  std::string url;                            // of one that is elsewhere
  std::string file;                           // the id of one that the upstream has
  std::string id, name;                       // of a call; a result has the call's id, a document its file's name
  std::shared_ptr<const Json> json;           // of a call: its arguments, an object; of other: the part as it came
  std::shared_ptr<const Json> cache_control;  // as it came; null: none
  std::vector<Piece> inner;                   // of a result that is more than text: all of it
};

struct Turn {
  std::string role;  // "user" (who also brings tools' results) or "assistant"
  std::vector<Piece> pieces;
};

struct Conversation {
  std::vector<Piece> system;
  std::vector<Turn> turns;  // the roles alternate
};
// invalid: a message or part that has no meaning.
Result<Conversation> read_conversation(const engine::Chat& chat);

struct Tool {
  std::string name, description;
  std::shared_ptr<const Json> parameters;     // a JSON Schema
  std::shared_ptr<const Json> cache_control;  // null: none
  std::shared_ptr<const Json> other;          // a tool that is no function, as it came; else null
};
std::vector<Tool> read_tools(const engine::Chat& chat);

// Whether the answer must call a tool.
struct ToolChoice {
  enum class Kind { unsaid, automatic, none, any, one };
  Kind kind = Kind::unsaid;
  std::string name;      // of the one
  bool parallel = true;  // several calls at once
};
ToolChoice read_tool_choice(const Json& body);

// response_format: the schema that an answer must have; null: none. {"type": "object"} for json_object.
std::shared_ptr<const Json> read_schema(const Json& body);
std::vector<std::string> read_stops(const Json& body);

// The tokens that an upstream without words for 'reasoning_effort' may think; 0: it shall not. Of `most`, which are
// those of the answer too, they leave a quarter for it; where nobody said one (0), `most` is to be greater by them.
// Where the answer must be a call or have a schema, or goes on with calls whose thoughts the client did not keep, it
// cannot think.
int thinking_budget(const Json& body, const Conversation& conversation, int most);

// unsupported: a message has a part that is neither text nor picture.
Status refuse_other_parts(const Json& messages, std::string_view kind);

// unsupported, where the body asks for what `kind` does not have: each of `names` that is there and says something
// (n above 1, logprobs true, a penalty that is not 0).
Status refuse_members(const Json& body, std::string_view kind, std::initializer_list<std::string_view> names);

}  // namespace ashlar::gateway
