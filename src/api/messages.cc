#include "api/messages.h"

#include <fmt/format.h>

#include <utility>

#include "base/json_full.h"

namespace ashlar::api {
namespace {

Outcome<std::string> join_parts(const Json& parts, const std::string& at) {
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const std::string here = fmt::format("{}[{}]", at, i);
    if (i > 0) out.push_back('\n');
    if (part.is_string()) {
      out.append(part.get_ref<const std::string&>());
      continue;
    }
    if (!part.is_object()) return bad(here, fmt::format("'{}' should be an object, not {}", here, kind(part)));
    const auto type = part.value("type", Json());
    if (!type.is_string()) return bad(here + ".type", fmt::format("'{}' should have a 'type'", here));
    const auto& name = type.get_ref<const std::string&>();
    if (name != "text" && name != "input_text" && name != "output_text" && name != "refusal")
      return not_yet(here, fmt::format("content of type '{}'", name));
    const auto text = part.find(name == "refusal" ? "refusal" : "text");
    if (text == part.end() || !text->is_string())
      return bad(here + ".text", fmt::format("'{}' should have a string 'text'", here));
    out.append(text->get_ref<const std::string&>());
  }
  return out;
}

Outcome<void> read_tool_calls(Json& calls, const std::string& at) {
  if (!calls.is_array()) return bad(at, fmt::format("'{}' should be an array, not {}", at, kind(calls)));
  for (Json& call : calls) {
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (!call.is_object() || function == call.end() || !function->is_object())
      return bad(at, fmt::format("each of '{}' should be an object with a 'function'", at));
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || !arguments->is_string()) continue;
    const auto& text = arguments->get_ref<const std::string&>();
    if (text.empty()) {
      *arguments = Json::object();
    } else if (auto parsed = parse_json(text); parsed && parsed->is_object()) {
      *arguments = std::move(*parsed);  // what a model wrote may be no JSON: it then stays a string
    }
  }
  return {};
}

std::string place(std::size_t message) { return fmt::format("messages[{}]", message); }

Outcome<void> check_message(const Json& message, std::size_t i) {
  if (!message.is_object())
    return bad(place(i), fmt::format("'{}' should be an object, not {}", place(i), kind(message)));
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string())
    return bad(place(i) + ".role", fmt::format("'{}' should have a string 'role'", place(i)));
  return {};
}

Outcome<void> mend_message(Json& message, const std::string& at) {
  const auto role = message.find("role");
  if (*role == "developer") *role = "system";

  if (const auto calls = message.find("tool_calls"); calls != message.end()) {
    if (calls->is_null() || (calls->is_array() && calls->empty()))
      message.erase(calls);
    else
      TRY(read_tool_calls(*calls, at + ".tool_calls"));
  }
  if (const auto reasoning = message.find("reasoning");
      reasoning != message.end() && !message.contains("reasoning_content")) {
    Json moved = std::move(*reasoning);
    message["reasoning_content"] = std::move(moved);
  }

  const std::string where = at + ".content";
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    if (message["role"] != "assistant") return bad(where, fmt::format("'{}' is missing", where));
    message["content"] = message.contains("tool_calls") ? Json() : Json("");
  } else if (content->is_array()) {
    *content = TRY(join_parts(*content, where));
  } else if (!content->is_string()) {
    return bad(where, fmt::format("'{}' should be a string or an array of parts, not {}", where, kind(*content)));
  }
  return {};
}

// none and auto reach the template; to force a call needs a grammar.
void check_tool_choice(Fields& fields) {
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_object() || *choice == "required") return fields.fail(not_yet("tool_choice", "forcing a tool call"));
  if (*choice != "none" && *choice != "auto")
    fields.fail(bad("tool_choice", "'tool_choice' should be \"none\", \"auto\", \"required\" or an object"));
}

}  // namespace

Outcome<engine::Chat> read_chat(Fields& fields, const std::shared_ptr<const Json>& foreign) {
  engine::Chat chat;
  const Json* messages = fields.read_array("messages");
  TRY(fields.done());
  if (messages == nullptr) return bad("messages", "'messages' is missing: send an array of {\"role\", \"content\"}");
  if (messages->empty()) return bad("messages", "'messages' is empty: send at least one message");
  for (std::size_t i = 0; i < messages->size(); ++i) TRY(check_message((*messages)[i], i));
  if (foreign) {
    chat.messages = std::shared_ptr<const Json>(foreign, messages);
  } else {
    Json mended = *messages;
    for (std::size_t i = 0; i < mended.size(); ++i) TRY(mend_message(mended[i], place(i)));
    chat.messages = std::make_shared<const Json>(std::move(mended));
  }

  if (const Json* tools = fields.read_array("tools"); tools != nullptr && !tools->empty()) {
    for (const Json& tool : *tools)
      if (!tool.is_object()) return bad("tools", fmt::format("'tools' should hold objects, not {}", kind(tool)));
    chat.tools = foreign ? std::shared_ptr<const Json>(foreign, tools) : std::make_shared<const Json>(*tools);
  }
  if (!foreign) {
    check_tool_choice(fields);
    fields.refuse("functions");
    fields.refuse("function_call");
  }

  Json kwargs = Json::object();
  if (const Json* given = fields.read_object("chat_template_kwargs")) kwargs = *given;
  for (const char* name : {"documents", "reasoning_effort"})
    if (const Json* value = fields.find(name); value != nullptr && !kwargs.contains(name)) kwargs[name] = *value;
  if (!kwargs.empty()) chat.template_kwargs = std::make_shared<const Json>(std::move(kwargs));

  fields.read("chat_template", chat.chat_template);
  fields.read("continue_final_message", chat.continue_final_message);
  // To continue a message is not to begin one.
  chat.add_generation_prompt = !chat.continue_final_message;
  fields.read("add_generation_prompt", chat.add_generation_prompt);
  fields.read("add_special_tokens", chat.add_special_tokens);
  if (chat.continue_final_message && chat.add_generation_prompt)
    fields.fail(
        bad("continue_final_message", "'continue_final_message' and 'add_generation_prompt' cannot both be true"));
  if (chat.continue_final_message && chat.messages->back()["role"] != "assistant")
    fields.fail(
        bad("continue_final_message", "'continue_final_message' needs a last message of the role \"assistant\""));
  TRY(fields.done());
  return chat;
}

}  // namespace ashlar::api
