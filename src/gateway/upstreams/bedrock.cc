// Kind `bedrock`: AWS's Converse and ConverseStream, signed.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "base/json_full.h"
#include "gateway/upstreams/conversation.h"
#include "gateway/upstreams/eventstream.h"
#include "gateway/upstreams/wire.h"
#include "store/s3.h"
#include "store/wire.h"

namespace ashlar::gateway {
namespace {

constexpr std::string_view kAnswerTool = "answer";

// As Converse calls pictures and documents.
std::string_view format_of(std::string_view media) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"image/jpg", "jpeg"},
      {"text/plain", "txt"},
      {"text/markdown", "md"},
      {"application/msword", "doc"},
      {"application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"},
      {"application/vnd.ms-excel", "xls"},
      {"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"}};
  for (const auto& [each, name] : kNames)
    if (each == media) return name;
  return media.substr(std::min(media.size(), media.find('/') + 1));
}

// A document's name has letters, digits, hyphens and brackets there; of anything else a hyphen is made.
std::string plain_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    out.push_back(letter || std::string_view("-()[]").contains(c) ? c : '-');
  }
  return out.empty() ? "document" : out.substr(0, 200);
}

Result<Json> blocks_of(const std::vector<Piece>& pieces);

Result<Json> block_of(const Piece& piece) {
  switch (piece.kind) {
    case Piece::Kind::text:
      return Json{{"text", piece.text}};
    case Piece::Kind::picture:
    case Piece::Kind::document: {
      if (piece.base64.empty())
        return Error{Code::unsupported, "an upstream of kind bedrock takes pictures and files only as data: addresses"};
      Json inner{{"format", format_of(piece.media)}, {"source", {{"bytes", piece.base64}}}};
      if (piece.kind == Piece::Kind::picture) return Json{{"image", std::move(inner)}};
      inner["name"] = plain_name(piece.name);
      return Json{{"document", std::move(inner)}};
    }
    case Piece::Kind::call:
      return Json{{"toolUse", {{"toolUseId", piece.id}, {"name", piece.name}, {"input", *piece.json}}}};
    case Piece::Kind::result: {
      Json content = piece.inner.empty() ? Json::array({Json{{"text", piece.text}}}) : TRY(blocks_of(piece.inner));
      return Json{{"toolResult", {{"toolUseId", piece.id}, {"content", std::move(content)}}}};
    }
    case Piece::Kind::other:
      if (string_member(*piece.json, "type") == "redacted_thinking")
        return Json{{"reasoningContent", {{"redactedContent", string_member(*piece.json, "data")}}}};
      if (string_member(*piece.json, "type") == "thinking")
        return Json{{"reasoningContent",
                     {{"reasoningText",
                       {{"text", string_member(*piece.json, "thinking")},
                        {"signature", string_member(*piece.json, "signature")}}}}}};
      return *piece.json;
  }
  return Json::object();
}

// Of a cache_control as Anthropic's clients write it.
Json cache_point(const Json& control) {
  Json point{{"type", "default"}};
  if (const auto ttl = string_member(control, "ttl"); !ttl.empty()) point["ttl"] = ttl;
  return {{"cachePoint", std::move(point)}};
}

Result<Json> blocks_of(const std::vector<Piece>& pieces) {
  Json out = Json::array();
  for (const Piece& piece : pieces) {
    out.push_back(TRY(block_of(piece)));
    if (piece.cache_control) out.push_back(cache_point(*piece.cache_control));
  }
  return out;
}

Json tool_spec(std::string_view name, std::string_view description, const Json& schema) {
  Json spec{{"name", name}, {"inputSchema", {{"json", schema}}}};
  if (!description.empty()) spec["description"] = description;
  return {{"toolSpec", std::move(spec)}};
}

// The tools that were called before, each once: a conversation with calls is refused where no tools stand beside it.
Json called_tools(const Conversation& conversation) {
  Json out = Json::array();
  std::set<std::string_view> names;
  for (const Turn& turn : conversation.turns)
    for (const Piece& piece : turn.pieces)
      if (piece.kind == Piece::Kind::call && names.insert(piece.name).second)
        out.push_back(tool_spec(piece.name, "", {{"type", "object"}}));
  return out;
}

Status say_tools(const engine::Chat& chat, const Json& body, const Conversation& conversation, Json& out) {
  Json tools = Json::array();
  for (const Tool& tool : read_tools(chat)) {
    if (tool.other) return Error{Code::unsupported, "an upstream of kind bedrock takes only tools that are functions"};
    tools.push_back(tool_spec(tool.name, tool.description, *tool.parameters));
    if (tool.cache_control) tools.push_back(cache_point(*tool.cache_control));
  }
  const ToolChoice choice = read_tool_choice(body);
  Json said = Json::object();
  if (const auto schema = read_schema(body)) {
    if (!tools.empty())
      return Error{Code::unsupported, "an upstream of kind bedrock takes either tools or 'response_format'"};
    tools.push_back(tool_spec(kAnswerTool, "Give the answer.", *schema));
    said = {{"tool", {{"name", kAnswerTool}}}};
  } else if (choice.kind == ToolChoice::Kind::any) {
    said = {{"any", Json::object()}};
  } else if (choice.kind == ToolChoice::Kind::one) {
    said = {{"tool", {{"name", choice.name}}}};
  }
  // It has no word for "none": then the tools are left out, if they can be.
  if (Json called = called_tools(conversation); !called.empty()) {
    if (tools.empty()) tools = std::move(called);
  } else if (choice.kind == ToolChoice::Kind::none) {
    return {};
  }
  if (tools.empty()) return {};
  out["toolConfig"] = {{"tools", std::move(tools)}};
  if (!said.empty()) out["toolConfig"]["toolChoice"] = std::move(said);
  return {};
}

// Claude has no 'reasoning_effort', but tokens to think; and thinking wants the usual sampling.
void say_thinking(int budget, Json& config, Json& more) {
  more.erase("reasoning_effort");
  if (!more.contains("thinking") && budget > 0) more["thinking"] = {{"type", "enabled"}, {"budget_tokens", budget}};
  if (!more.contains("thinking") || string_member(more["thinking"], "type") == "disabled") return;
  config.erase("temperature"), config.erase("topP"), more.erase("top_k");
}

void say_inference(const Json& body, const engine::Request& request, const Conversation& conversation, bool claude,
                   int usual_tokens, Json& out) {
  Json config = Json::object(), more = Json::object();
  const int most = std::max(0, request.stopping.max_tokens);
  const int budget = claude ? thinking_budget(body, conversation, most) : 0;
  if (most > 0 || budget > 0) config["maxTokens"] = most > 0 ? most : usual_tokens + budget;
  if (const Json* value = find_member(body, "temperature")) config["temperature"] = *value;
  if (const Json* value = find_member(body, "top_p")) config["topP"] = *value;
  if (const auto stops = read_stops(body); !stops.empty()) config["stopSequences"] = stops;
  for (const char* name : {"top_k", "thinking", "reasoning_effort"})
    if (const Json* value = find_member(body, name)) more[name] = *value;
  if (claude) say_thinking(budget, config, more);
  if (!config.empty()) out["inferenceConfig"] = std::move(config);
  if (!more.empty()) out["additionalModelRequestFields"] = std::move(more);
}

class BedrockReader final : public Reader {
 public:
  BedrockReader(const net::Headers& headers, bool answer_is_tool, Teller& teller)
      : teller_(teller),
        answer_is_tool_(answer_is_tool),
        streamed_(net::find_header(headers, "content-type").starts_with("application/vnd.amazon.eventstream")) {}

  void read(std::string_view bytes) override {
    if (!streamed_) {
      body_.append(bytes);
      return;
    }
    if (auto done = stream_.read(bytes, [this](StreamMessage&& message) { take_message(message); }); !done)
      teller_.fail(nonsense(teller_.upstream(), "an event stream that is broken: " + done.error().message));
  }

  void end() override {
    if (!streamed_) {
      const auto answer = parse_answer(body_);
      if (!answer || !answer->is_object()) return teller_.fail(nonsense(teller_.upstream(), "no answer"));
      take_whole(*answer);
    } else if (!stream_.at_boundary()) {
      return teller_.fail(nonsense(teller_.upstream(), "an event that is cut"));
    }
    teller_.closed();
  }

 private:
  void take_message(const StreamMessage& message) {
    if (teller_.failure() || teller_.over()) return;
    const auto json = parse_answer(message.payload.empty() ? "{}" : message.payload);
    if (!json || !json->is_object())
      return teller_.fail(nonsense(teller_.upstream(), "an event that is no JSON object"));
    const std::string_view kind = message.header(":message-type");
    if (kind == "exception" || kind == "error") {
      Json error = *json;
      error["type"] = kind == "error" ? message.header(":error-code") : message.header(":exception-type");
      if (!error.contains("message")) error["message"] = message.header(":error-message");
      return teller_.fail(failure_in_stream(teller_.upstream(), error));
    }
    take_event(message.header(":event-type"), *json);
  }

  void take_event(std::string_view type, const Json& event) {
    const int index = count_of(event, "contentBlockIndex").value_or(0);
    if (type == "contentBlockStart") {
      thinking_.clear(), signature_.clear();
      open_call_ = -1;
      const Json* start = find_member(event, "start");
      if (const Json* use = start != nullptr ? find_member(*start, "toolUse") : nullptr) begin_call(index, *use);
    } else if (type == "contentBlockDelta") {
      if (const Json* delta = find_member(event, "delta")) take_delta(index, *delta);
    } else if (type == "contentBlockStop") {
      end_block();
    } else if (type == "messageStop") {
      take_end(string_member(event, "stopReason"));
    } else if (type == "metadata") {
      take_usage(event);
    }
  }

  void begin_call(int index, const Json& use) {
    open_call_ = index;
    if (!answer_is_tool_) teller_.tool_call(0, index, string_member(use, "toolUseId"), string_member(use, "name"), "");
  }

  void take_input(int index, std::string_view piece) {
    if (!piece.empty()) open_call_ = -1;
    if (answer_is_tool_)
      teller_.text({.text = std::string(piece)});
    else
      teller_.tool_call(0, index, "", "", piece);
  }

  void take_delta(int index, const Json& delta) {
    teller_.text({.text = std::string(string_member(delta, "text"))});
    if (const Json* use = find_member(delta, "toolUse")) take_input(index, string_member(*use, "input"));
    if (const Json* thought = find_member(delta, "reasoningContent")) {
      if (const auto redacted = string_member(*thought, "redactedContent"); !redacted.empty())
        teller_.members(0,
                        {{"thinking_blocks", Json::array({Json{{"type", "redacted_thinking"}, {"data", redacted}}})}});
      thinking_.append(string_member(*thought, "text"));
      signature_.append(string_member(*thought, "signature"));
      teller_.reasoning(0, string_member(*thought, "text"));
    }
  }

  void end_block() {
    if (open_call_ >= 0) take_input(open_call_, "{}");  // a call of a tool that wants nothing
    if (!signature_.empty())
      teller_.members(
          0, {{"thinking_blocks",
               Json::array({Json{{"type", "thinking"}, {"thinking", thinking_}, {"signature", signature_}}})}});
    thinking_.clear(), signature_.clear();
  }

  // As Anthropic's: what the cache held is not among inputTokens.
  void take_usage(const Json& of) {
    const Json* usage = find_member(of, "usage");
    if (usage == nullptr) return;
    const auto input = count_of(*usage, "inputTokens");
    const auto read = count_of(*usage, "cacheReadInputTokens"), made = count_of(*usage, "cacheWriteInputTokens");
    std::optional<int> prompt;
    if (input)
      prompt = static_cast<int>(
          std::min<std::int64_t>(std::int64_t{*input} + read.value_or(0) + made.value_or(0), 2'147'483'647));
    teller_.counted(prompt, count_of(*usage, "outputTokens"), read, {}, made, hour_of_details(*usage));
  }

  static std::optional<int> hour_of_details(const Json& usage) {
    const Json* details = find_member(usage, "cacheDetails");
    if (details == nullptr || !details->is_array()) return std::nullopt;
    std::int64_t hour = 0;
    for (const Json& each : *details)
      if (string_member(each, "ttl") == "1h") hour += count_of(each, "inputTokens").value_or(0);
    return static_cast<int>(std::min<std::int64_t>(hour, 2'147'483'647));
  }

  void take_end(std::string_view reason) {
    engine::ChoiceEnd end{.reason = finish_reason(reason)};
    if (reason == "guardrail_intervened" || reason == "content_filtered")
      end.reason = engine::FinishReason::content_filter;
    if (reason == "model_context_window_exceeded") end.reason = engine::FinishReason::length;
    if (answer_is_tool_ && reason == "tool_use") end.reason = engine::FinishReason::stop;
    teller_.end(std::move(end));
  }

  void take_whole(const Json& answer) {
    take_usage(answer);
    const Json* output = find_member(answer, "output");
    const Json* message = output != nullptr ? find_member(*output, "message") : nullptr;
    const Json* content = message != nullptr ? find_member(*message, "content") : nullptr;
    if (content == nullptr || !content->is_array()) return teller_.fail(nonsense(teller_.upstream(), "no answer"));
    for (int i = 0; i < std::ssize(*content); ++i) {
      const Json& block = (*content)[static_cast<std::size_t>(i)];
      teller_.text({.text = std::string(string_member(block, "text"))});
      if (const Json* thought = find_member(block, "reasoningContent")) {
        const Json* text = find_member(*thought, "reasoningText");
        take_delta(i, {{"reasoningContent", text != nullptr ? *text : *thought}});
      }
      end_block();
      if (const Json* use = find_member(block, "toolUse")) {
        begin_call(i, *use);
        take_input(i, dump_json(arguments_object(find_member(*use, "input"))));
      }
    }
    take_end(string_member(answer, "stopReason"));
  }

  Teller& teller_;
  const bool answer_is_tool_, streamed_;
  EventStreamReader stream_;
  std::string body_, thinking_, signature_;
  int open_call_ = -1;  // the block of a call of which no input has come; -1: none
};

class Bedrock final : public Wire {
 public:
  Bedrock(const UpstreamOptions& options, UpstreamSecrets secrets)
      : base_(base_url(options)),
        stream_(options.stream),
        max_tokens_(options.max_tokens),
        keys_{.id = secrets.access_key,
              .secret = secrets.secret_key,
              .session = secrets.session_token,
              .region = options.region,
              .service = "bedrock"},
        bearer_(secrets.api_key) {
    const auto variable = [](const char* name) {
      return std::string(std::getenv(name) != nullptr ? std::getenv(name) : "");
    };
    if (!keys_.id.empty() || !bearer_.empty()) return;
    keys_.id = variable("AWS_ACCESS_KEY_ID");
    keys_.secret = variable("AWS_SECRET_ACCESS_KEY");
    keys_.session = variable("AWS_SESSION_TOKEN");
  }

  Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const override {
    const auto* chat = std::get_if<engine::Chat>(&request.prompt.input);
    if (chat == nullptr)
      return Error{Code::unsupported, "an upstream of kind bedrock takes conversations, not bare texts"};
    const Json body = openai_body(request);
    TRY(refuse_members(body, "bedrock",
                       {"n", "logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "functions"}));
    const Conversation conversation = TRY(read_conversation(*chat));
    Json out{{"messages", Json::array()}};
    if (!conversation.system.empty()) out["system"] = TRY(blocks_of(conversation.system));
    for (const Turn& turn : conversation.turns)
      out["messages"].push_back({{"role", turn.role}, {"content", TRY(blocks_of(turn.pieces))}});
    say_inference(body, request, conversation, model.find("claude") != model.npos, max_tokens_, out);
    TRY(say_tools(*chat, body, conversation, out));
    return net::ClientRequest{.method = "POST",
                              .url = fmt::format("{}/model/{}/{}", base_, store::percent_encode(model, false),
                                                 stream_ ? "converse-stream" : "converse"),
                              .headers = {{"content-type", "application/json"}},
                              .body = dump_json(out)};
  }

  std::unique_ptr<Reader> reader(const engine::Request& request, const net::Headers& headers,
                                 Teller& teller) const override {
    const bool answer_is_tool = request.body != nullptr && read_schema(*request.body) != nullptr;
    return std::make_unique<BedrockReader>(headers, answer_is_tool, teller);
  }

  void sign(net::ClientRequest& request) const override {
    if (!bearer_.empty())
      request.headers.emplace_back("authorization", "Bearer " + bearer_);
    else
      store::sign_s3(request, keys_, std::chrono::system_clock::now());
  }

  // Lists nothing without another service's rights: that anything answers is enough.
  net::ClientRequest probe() const override { return {.url = base_ + "/"}; }
  bool lists() const override { return false; }
  Result<std::vector<Listed>> read_list(std::string_view) const override { return std::vector<Listed>(); }

 private:
  const std::string base_;
  const bool stream_;
  const int max_tokens_;
  store::S3Keys keys_;
  const std::string bearer_;
};

}  // namespace

std::unique_ptr<Wire> make_bedrock(const UpstreamOptions& options, UpstreamSecrets secrets) {
  return std::make_unique<Bedrock>(options, std::move(secrets));
}

}  // namespace ashlar::gateway
