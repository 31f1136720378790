// Kind `anthropic`: POST /v1/messages and its events.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/json_full.h"
#include "base/utf8.h"
#include "gateway/upstreams/conversation.h"
#include "gateway/upstreams/event_reader.h"
#include "gateway/upstreams/openai.h"
#include "store/digest.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kAnswerTool =
    "answer";  // whose arguments are the answer, where one of a schema is asked for

Json blocks_of(const std::vector<Piece>& pieces);

// A picture's or document's: texts stand in it as they are.
Json source_of(const Piece& piece) {
  if (!piece.file.empty()) return {{"type", "file"}, {"file_id", piece.file}};
  if (!piece.url.empty()) return {{"type", "url"}, {"url", piece.url}};
  if (piece.media.starts_with("text/"))
    if (auto text = store::base64_decode(piece.base64); text && utf8::is_valid(*text))
      return {{"type", "text"}, {"media_type", "text/plain"}, {"data", std::move(*text)}};
  return {{"type", "base64"}, {"media_type", piece.media}, {"data", piece.base64}};
}

Json bare_block_of(const Piece& piece) {
  switch (piece.kind) {
    case Piece::Kind::text:
      return {{"type", "text"}, {"text", piece.text}};
    case Piece::Kind::picture:
      return {{"type", "image"}, {"source", source_of(piece)}};
    case Piece::Kind::document: {
      Json out{{"type", "document"}, {"source", source_of(piece)}};
      if (!piece.name.empty()) out["title"] = piece.name;
      return out;
    }
    case Piece::Kind::call:
      return {{"type", "tool_use"}, {"id", piece.id}, {"name", piece.name}, {"input", *piece.json}};
    case Piece::Kind::result:
      return {{"type", "tool_result"},
              {"tool_use_id", piece.id},
              {"content", piece.inner.empty() ? Json(piece.text) : blocks_of(piece.inner)}};
    case Piece::Kind::other:
      return *piece.json;
  }
  return Json::object();
}

Json blocks_of(const std::vector<Piece>& pieces) {
  Json out = Json::array();
  for (const Piece& piece : pieces) {
    out.push_back(bare_block_of(piece));
    if (piece.cache_control) out.back()["cache_control"] = *piece.cache_control;
  }
  return out;
}

// Members that are called the same there.
void copy_members(const Json& from, Json& to, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names)
    if (const Json* value = find_member(from, name)) to[name] = *value;
}

void say_tools(const engine::Chat& chat, const Json& body, Json& out) {
  Json tools = Json::array();
  for (const Tool& tool : read_tools(chat)) {
    if (tool.other) {
      tools.push_back(*tool.other);
      continue;
    }
    Json one{{"name", tool.name}, {"input_schema", *tool.parameters}};
    if (!tool.description.empty()) one["description"] = tool.description;
    if (tool.cache_control) one["cache_control"] = *tool.cache_control;
    tools.push_back(std::move(one));
  }
  if (tools.empty()) return;
  out["tools"] = std::move(tools);
  const ToolChoice choice = read_tool_choice(body);
  constexpr const char* kNames[] = {"auto", "auto", "none", "any", "tool"};
  if (choice.kind == ToolChoice::Kind::unsaid && choice.parallel) return;
  Json said{{"type", kNames[static_cast<int>(choice.kind)]}};
  if (choice.kind == ToolChoice::Kind::one) said["name"] = choice.name;
  if (!choice.parallel && choice.kind != ToolChoice::Kind::none) said["disable_parallel_tool_use"] = true;
  out["tool_choice"] = std::move(said);
}

// The most tokens are the answer's and the thoughts', which are below them: where nobody said any, there is room for
// both. Thinking wants the usual sampling.
void say_thinking(const Json& body, const Conversation& conversation, int most, int usual_tokens, Json& out) {
  int budget = thinking_budget(body, conversation, most);
  if (const Json* said = find_member(body, "thinking"))
    budget = std::min(count_of(*said, "budget_tokens").value_or(0), 1'000'000);
  else if (budget > 0)
    out["thinking"] = {{"type", "enabled"}, {"budget_tokens", budget}};
  out["max_tokens"] = most > 0 ? most : usual_tokens + budget;
  if (!out.contains("thinking") || string_member(out["thinking"], "type") == "disabled") return;
  for (const char* name : {"temperature", "top_k", "top_p"}) out.erase(name);
}

class AnthropicReader final : public EventReader {
 public:
  AnthropicReader(const net::Headers& headers, bool answer_is_tool, Teller& teller)
      : EventReader(headers, teller), answer_is_tool_(answer_is_tool) {}

 private:
  // One block of the answer while it comes.
  struct Block {
    int index = -1;
    std::string type, thinking, signature;
    bool has_input = false;
  };

  void take_event(const net::SseEvent& event) override {
    if (teller_.failure() || teller_.over()) return;
    const auto json = parse_answer(event.data);
    if (!json || !json->is_object())
      return teller_.fail(nonsense(teller_.upstream(), "an event that is no JSON object"));
    const std::string_view type = string_member(*json, "type");
    const Json* delta = find_member(*json, "delta");
    if (type == "message_start") {
      if (const Json* message = find_member(*json, "message")) take_usage(*message);
    } else if (type == "content_block_start") {
      const Json* block = find_member(*json, "content_block");
      if (block != nullptr) begin_block(count_of(*json, "index").value_or(0), *block);
    } else if (type == "content_block_delta" && delta != nullptr) {
      take_delta(*delta);
    } else if (type == "content_block_stop") {
      end_block();
    } else if (type == "message_delta") {
      take_usage(*json);
      if (delta != nullptr) take_end(*delta);
    } else if (type == "message_stop") {
      teller_.done();
    } else if (type == "error") {
      const Json* error = find_member(*json, "error");
      teller_.fail(failure_in_stream(teller_.upstream(), error != nullptr ? *error : *json));
    }
  }

  void begin_block(int index, const Json& block) {
    block_ = {.index = index, .type = std::string(string_member(block, "type"))};
    if (block_.type == "text") teller_.text({.text = std::string(string_member(block, "text"))});
    if (block_.type == "thinking") think(string_member(block, "thinking"));
    block_.signature = string_member(block, "signature");
    if (block_.type == "tool_use" && !answer_is_tool_)
      teller_.tool_call(0, index, string_member(block, "id"), string_member(block, "name"), "");
    if (block_.type == "redacted_thinking") teller_.members(0, {{"thinking_blocks", Json::array({block})}});
    // Whole answers have the input at once; streams an empty object here, and then its pieces.
    if (const Json* input = find_member(block, "input"); input != nullptr && input->is_object() && !input->empty())
      take_input(dump_json(*input));
  }

  void think(std::string_view text) {
    block_.thinking.append(text);
    teller_.reasoning(0, text);
  }

  void take_input(std::string_view piece) {
    block_.has_input = block_.has_input || !piece.empty();
    if (answer_is_tool_)
      teller_.text({.text = std::string(piece)});
    else if (block_.type == "tool_use")
      teller_.tool_call(0, block_.index, "", "", piece);
  }

  void take_delta(const Json& delta) {
    const std::string_view type = string_member(delta, "type");
    if (type == "text_delta") teller_.text({.text = std::string(string_member(delta, "text"))});
    if (type == "thinking_delta") think(string_member(delta, "thinking"));
    if (type == "signature_delta") block_.signature.append(string_member(delta, "signature"));
    if (type == "input_json_delta") take_input(string_member(delta, "partial_json"));
    if (const Json* citation = find_member(delta, "citation"))
      teller_.members(0, {{"citations", Json::array({*citation})}});
  }

  void end_block() {
    if (block_.type == "tool_use" && !block_.has_input) take_input("{}");
    if (block_.type == "thinking" && !block_.signature.empty())
      teller_.members(
          0, {{"thinking_blocks",
               Json::array(
                   {Json{{"type", "thinking"}, {"thinking", block_.thinking}, {"signature", block_.signature}}})}});
    block_ = {};
  }

  // Anthropic's input_tokens are those beside the cache.
  void take_usage(const Json& of) {
    const Json* usage = find_member(of, "usage");
    if (usage == nullptr) return;
    const auto input = count_of(*usage, "input_tokens");
    const auto read = count_of(*usage, "cache_read_input_tokens"),
               made = count_of(*usage, "cache_creation_input_tokens");
    std::optional<int> prompt;
    if (input)
      prompt = static_cast<int>(
          std::min<std::int64_t>(std::int64_t{*input} + read.value_or(0) + made.value_or(0), 2'147'483'647));
    teller_.counted(prompt, count_of(*usage, "output_tokens"), read, {}, made, hour_of(*usage));
  }

  void take_end(const Json& delta) {
    const std::string_view reason = string_member(delta, "stop_reason");
    if (reason.empty()) return;
    engine::ChoiceEnd end{.reason = finish_reason(reason)};
    if (reason == "refusal") end.reason = engine::FinishReason::content_filter;
    if (reason == "model_context_window_exceeded") end.reason = engine::FinishReason::length;
    if (answer_is_tool_ && reason == "tool_use") end.reason = engine::FinishReason::stop;
    if (const auto stop = string_member(delta, "stop_sequence"); !stop.empty()) end.stop_string = stop;
    teller_.end(std::move(end));
  }

  void take_whole(const Json& answer) override {
    if (const Json* error = find_member(answer, "error"))
      return teller_.fail(failure_in_stream(teller_.upstream(), *error));
    take_usage(answer);
    if (const Json* content = find_member(answer, "content"); content != nullptr && content->is_array())
      for (int i = 0; i < std::ssize(*content); ++i) {
        begin_block(i, (*content)[static_cast<std::size_t>(i)]);
        end_block();
      }
    take_end(answer);
  }

  const bool answer_is_tool_;
  Block block_;
};

class Anthropic final : public Wire {
 public:
  Anthropic(const UpstreamOptions& options, UpstreamSecrets secrets)
      : base_(base_url(options, "/v1")), stream_(options.stream), max_tokens_(options.max_tokens) {
    headers_ = {{"content-type", "application/json"},
                {"anthropic-version", options.api_version.empty() ? "2023-06-01" : options.api_version}};
    if (!secrets.api_key.empty()) headers_.emplace_back("x-api-key", secrets.api_key);
  }

  Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const override {
    const auto* chat = std::get_if<engine::Chat>(&request.prompt.input);
    if (chat == nullptr)
      return Error{Code::unsupported, "an upstream of kind anthropic takes conversations, not bare texts"};
    const Json body = openai_body(request);
    TRY(refuse_members(body, "anthropic",
                       {"n", "logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "functions"}));
    const Conversation conversation = TRY(read_conversation(*chat));
    Json out{{"model", model}, {"max_tokens", max_tokens_}};
    if (!conversation.system.empty()) out["system"] = blocks_of(conversation.system);
    out["messages"] = Json::array();
    for (const Turn& turn : conversation.turns)
      out["messages"].push_back({{"role", turn.role}, {"content", blocks_of(turn.pieces)}});
    copy_members(body, out, {"temperature", "top_p", "top_k", "thinking", "metadata", "service_tier"});
    if (out.contains("temperature") && out["temperature"].is_number())
      out["temperature"] = std::min(out["temperature"].get<double>(), 1.0);
    if (const auto user = string_member(body, "user"); !user.empty()) out["metadata"] = {{"user_id", user}};
    if (const auto stops = read_stops(body); !stops.empty()) out["stop_sequences"] = stops;
    say_tools(*chat, body, out);
    say_thinking(body, conversation, std::max(0, request.stopping.max_tokens), max_tokens_, out);
    if (const auto schema = read_schema(body)) {
      if (out.contains("tools"))
        return Error{Code::unsupported, "an upstream of kind anthropic takes either tools or 'response_format'"};
      out["tools"] =
          Json::array({Json{{"name", kAnswerTool}, {"description", "Give the answer."}, {"input_schema", *schema}}});
      out["tool_choice"] = {{"type", "tool"}, {"name", kAnswerTool}};
      out.erase("thinking");
    }
    if (stream_) out["stream"] = true;
    return net::ClientRequest{
        .method = "POST", .url = base_ + "/messages", .headers = headers_, .body = dump_json(out)};
  }

  std::unique_ptr<Reader> reader(const engine::Request& request, const net::Headers& headers,
                                 Teller& teller) const override {
    const bool answer_is_tool = request.body != nullptr && read_schema(*request.body) != nullptr;
    return std::make_unique<AnthropicReader>(headers, answer_is_tool, teller);
  }
  net::ClientRequest probe() const override { return {.url = base_ + "/models", .headers = headers_}; }
  Result<std::vector<Listed>> read_list(std::string_view body) const override { return read_openai_list(body); }

 private:
  const std::string base_;
  const bool stream_;
  const int max_tokens_;
  net::Headers headers_;
};

}  // namespace

std::unique_ptr<Wire> make_anthropic(const UpstreamOptions& options, UpstreamSecrets secrets) {
  return std::make_unique<Anthropic>(options, std::move(secrets));
}

}  // namespace ashlar::gateway
