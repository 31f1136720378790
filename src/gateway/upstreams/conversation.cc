#include "gateway/upstreams/conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/json_full.h"
#include "gateway/upstreams/wire.h"

namespace ashlar::gateway {
namespace {

std::shared_ptr<const Json> keep(Json json) { return std::make_shared<const Json>(std::move(json)); }

void take_address(Piece& piece, std::string_view url) {
  if (const auto data = data_url(url)) {
    piece.media = data->media.substr(0, data->media.find(';'));
    piece.base64 = data->base64;
  } else {
    piece.url = url;
  }
}

// nothing: there is none.
std::shared_ptr<const Json> cache_control_of(const Json& of) {
  const Json* found = find_member(of, "cache_control");
  return found != nullptr && found->is_object() ? keep(*found) : nullptr;
}

Piece read_part(const Json& part) {
  Piece piece{.cache_control = cache_control_of(part)};
  const std::string_view type = string_member(part, "type");
  if (part.is_string()) {
    piece.text = part.get<std::string>();
  } else if (type == "text" || type == "input_text" || type == "output_text" || type == "refusal") {
    piece.text = string_member(part, type == "refusal" ? "refusal" : "text");
  } else if (type == "image_url" || type == "input_image") {
    piece.kind = Piece::Kind::picture;
    const Json* image = find_member(part, "image_url");
    if (image != nullptr)
      take_address(piece, image->is_string() ? std::string_view(image->get_ref<const std::string&>())
                                             : string_member(*image, "url"));
  } else if (const Json* file = find_member(part, "file"); type == "file" && file != nullptr) {
    piece.kind = Piece::Kind::document;
    piece.name = string_member(*file, "filename");
    piece.file = string_member(*file, "file_id");
    take_address(piece, string_member(*file, "file_data"));
  } else {
    piece.kind = Piece::Kind::other;
    piece.json = keep(part);
  }
  return piece;
}

void read_content(const Json& message, std::vector<Piece>& out) {
  const Json* content = find_member(message, "content");
  if (content == nullptr) return;
  if (!content->is_array()) {
    if (content->is_string() && !content->get_ref<const std::string&>().empty()) out.push_back(read_part(*content));
    return;
  }
  for (const Json& part : *content)
    if (Piece piece = read_part(part); piece.kind != Piece::Kind::text || !piece.text.empty())
      out.push_back(std::move(piece));
}

Piece read_result(const Json& message) {
  Piece out{.kind = Piece::Kind::result,
            .id = std::string(string_member(message, "tool_call_id")),
            .name = std::string(string_member(message, "name")),
            .cache_control = cache_control_of(message)};
  const Json* content = find_member(message, "content");
  if (content != nullptr) out.text = content_text(*content);
  read_content(message, out.inner);
  if (std::ranges::all_of(out.inner, [](const Piece& each) { return each.kind == Piece::Kind::text; }))
    out.inner.clear();
  return out;
}

Status read_calls(const Json& message, std::vector<Piece>& out) {
  const Json* calls = find_member(message, "tool_calls");
  if (calls == nullptr || !calls->is_array()) return {};
  for (const Json& call : *calls) {
    const Json* function = find_member(call, "function");
    if (function == nullptr)
      return Error{Code::invalid,
                   "an assistant's message calls a tool that is no function, which this model does not know"};
    out.push_back({.kind = Piece::Kind::call,
                   .id = std::string(string_member(call, "id")),
                   .name = std::string(string_member(*function, "name")),
                   .json = keep(arguments_object(find_member(*function, "arguments")))});
  }
  return {};
}

void add_turn(Conversation& out, std::string_view role, std::vector<Piece> pieces) {
  if (pieces.empty()) return;
  if (out.turns.empty() || out.turns.back().role != role) out.turns.push_back({.role = std::string(role)});
  auto& last = out.turns.back().pieces;
  std::ranges::move(pieces, std::back_inserter(last));
}

bool says_something(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  return !value.is_null() && !value.empty();
}

}  // namespace

Result<Conversation> read_conversation(const engine::Chat& chat) {
  Conversation out;
  for (const Json& message : *chat.messages) {
    const std::string_view role = string_member(message, "role");
    std::vector<Piece> pieces;
    if (role == "system" || role == "developer") {
      read_content(message, out.system);
    } else if (role == "tool" || role == "function") {
      pieces.push_back(read_result(message));
      add_turn(out, "user", std::move(pieces));
    } else if (role == "assistant") {
      // Thoughts go back as they were signed, before what they led to.
      if (const Json* thoughts = find_member(message, "thinking_blocks"); thoughts != nullptr && thoughts->is_array())
        for (const Json& thought : *thoughts) pieces.push_back({.kind = Piece::Kind::other, .json = keep(thought)});
      read_content(message, pieces);
      TRY(read_calls(message, pieces));
      add_turn(out, "assistant", std::move(pieces));
    } else if (role == "user") {
      read_content(message, pieces);
      add_turn(out, "user", std::move(pieces));
    } else {
      return Error{Code::invalid, fmt::format("a message has the role '{}', which this model does not know", role)};
    }
  }
  if (out.turns.empty()) return Error{Code::invalid, "the conversation says nothing"};
  return out;
}

std::vector<Tool> read_tools(const engine::Chat& chat) {
  std::vector<Tool> out;
  if (chat.tools == nullptr || !chat.tools->is_array()) return out;
  for (const Json& tool : *chat.tools) {
    const Json* function = find_member(tool, "function");
    if (function == nullptr) {
      out.push_back({.other = keep(tool)});
      continue;
    }
    const Json* parameters = find_member(*function, "parameters");
    out.push_back({.name = std::string(string_member(*function, "name")),
                   .description = std::string(string_member(*function, "description")),
                   .parameters = keep(parameters != nullptr ? *parameters
                                                            : Json{{"type", "object"}, {"properties", Json::object()}}),
                   .cache_control = cache_control_of(tool.contains("cache_control") ? tool : *function)});
  }
  return out;
}

ToolChoice read_tool_choice(const Json& body) {
  using Kind = ToolChoice::Kind;
  ToolChoice out;
  if (const Json* parallel = find_member(body, "parallel_tool_calls")) out.parallel = *parallel != Json(false);
  const Json* choice = find_member(body, "tool_choice");
  if (choice == nullptr) return out;
  const std::string_view word = string_member(body, "tool_choice");
  if (word == "auto") out.kind = Kind::automatic;
  if (word == "none") out.kind = Kind::none;
  if (word == "required" || word == "any") out.kind = Kind::any;
  if (const Json* function = find_member(*choice, "function")) {
    out.kind = Kind::one;
    out.name = string_member(*function, "name");
  }
  return out;
}

std::shared_ptr<const Json> read_schema(const Json& body) {
  const Json* format = find_member(body, "response_format");
  if (format == nullptr) return nullptr;
  const std::string_view type = string_member(*format, "type");
  if (type == "json_object") {
    const Json* schema = find_member(*format, "schema");
    return keep(schema != nullptr ? *schema : Json{{"type", "object"}});
  }
  const Json* outer = find_member(*format, "json_schema");
  if (type != "json_schema" || outer == nullptr) return nullptr;
  const Json* schema = find_member(*outer, "schema");
  return keep(schema != nullptr ? *schema : Json{{"type", "object"}});
}

std::vector<std::string> read_stops(const Json& body) {
  std::vector<std::string> out;
  const Json* stop = find_member(body, "stop");
  if (stop == nullptr) return out;
  if (stop->is_string()) out.push_back(stop->get<std::string>());
  if (stop->is_array())
    for (const Json& each : *stop)
      if (each.is_string()) out.push_back(each.get<std::string>());
  return out;
}

int thinking_budget(const Json& body, const Conversation& conversation, int most) {
  const std::string_view effort = string_member(body, "reasoning_effort");
  const int wanted = effort == "low"                         ? 1024
                     : effort == "medium"                    ? 4096
                     : effort == "high" || effort == "xhigh" ? 16384
                                                             : 0;
  const int budget = most > 0 ? std::min(wanted, most - most / 4) : wanted;
  const auto choice = read_tool_choice(body).kind;
  const bool forced = choice == ToolChoice::Kind::any || choice == ToolChoice::Kind::one || read_schema(body);
  if (budget < 1024 || forced) return 0;
  const auto& turns = conversation.turns;
  const auto last =
      std::find_if(turns.rbegin(), turns.rend(), [](const Turn& each) { return each.role == "assistant"; });
  const bool calls = last != turns.rend() && std::ranges::any_of(last->pieces, [](const Piece& each) {
                       return each.kind == Piece::Kind::call;
                     });
  return calls && last->pieces.front().kind != Piece::Kind::other ? 0 : budget;
}

Status refuse_other_parts(const Json& messages, std::string_view kind) {
  for (const Json& message : messages) {
    const Json* content = find_member(message, "content");
    if (content == nullptr || !content->is_array()) continue;
    for (const Json& part : *content) {
      const std::string_view type = string_member(part, "type");
      for (const std::string_view other : {"file", "input_file", "input_audio", "audio_url", "video_url"})
        if (type == other)
          return Error{Code::unsupported,
                       fmt::format("an upstream of kind {} does not take parts of type '{}'", kind, type)};
    }
  }
  return {};
}

Status refuse_members(const Json& body, std::string_view kind, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const Json* value = find_member(body, name);
    if (value == nullptr || !says_something(*value) || (name == "n" && *value == Json(1))) continue;
    return Error{Code::unsupported,
                 fmt::format("'{}' is not something that an upstream of kind {} can be asked for", name, kind)};
  }
  return {};
}

}  // namespace ashlar::gateway
