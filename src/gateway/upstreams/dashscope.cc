// Kind `dashscope`: Alibaba's own form (its compatible mode is kind `openai`).
#include <fmt/format.h>

#include <utility>

#include "base/json_full.h"
#include "gateway/upstreams/conversation.h"
#include "gateway/upstreams/framing.h"
#include "gateway/upstreams/openai.h"
#include "net/sse.h"

namespace ashlar::gateway {
namespace {

// Members of the body that are called the same among its parameters.
constexpr const char* kParameters[] = {"temperature",
                                       "top_p",
                                       "top_k",
                                       "seed",
                                       "stop",
                                       "n",
                                       "repetition_penalty",
                                       "presence_penalty",
                                       "response_format",
                                       "tool_choice",
                                       "parallel_tool_calls",
                                       "logprobs",
                                       "top_logprobs",
                                       "enable_thinking",
                                       "thinking_budget",
                                       "enable_search",
                                       "search_options"};

bool has_pictures(const Json& messages) {
  for (const Json& message : messages)
    if (const Json* content = find_member(message, "content"); content != nullptr && content->is_array())
      for (const Json& part : *content)
        if (part.is_object() && (part.contains("image_url") || part.contains("image") || part.contains("video")))
          return true;
  return false;
}

// A conversation with pictures has parts everywhere, {"text"} and {"image"}; one without has texts.
Json message_of(const Json& message, bool parts) {
  Json out = message;
  if (string_member(message, "role") == "developer") out["role"] = "system";
  const Json* content = find_member(message, "content");
  if (content == nullptr) {
    out["content"] = "";
  } else if (!parts) {
    out["content"] = content_text(*content);
  } else if (content->is_string()) {
    out["content"] = Json::array({Json{{"text", *content}}});
  } else {
    out["content"] = Json::array();
    for (const Json& part : *content) {
      if (const Json* image = find_member(part, "image_url"))
        out["content"].push_back({{"image", image->is_string() ? *image : Json(string_member(*image, "url"))}});
      else if (string_member(part, "type") == "text")
        out["content"].push_back({{"text", string_member(part, "text")}});
      else
        out["content"].push_back(part);
    }
  }
  return out;
}

class DashScopeReader final : public Reader {
 public:
  DashScopeReader(const net::Headers& headers, Teller& teller) : teller_(teller), framing_(headers) {}

  void read(std::string_view bytes) override {
    if (framing_.whole(bytes)) return;
    if (auto done = sse_.read(bytes, [this](const net::SseEvent& event) { take(event.data); }); !done)
      teller_.fail(nonsense(teller_.upstream(), "an event that is too long"));
  }
  void end() override {
    if (const auto body = framing_.body()) take(*body);
    teller_.closed();
  }

 private:
  void take(std::string_view text) {
    teller_.next();
    if (teller_.failure() || teller_.over()) return;
    const auto json = parse_answer(text);
    if (!json || !json->is_object())
      return teller_.fail(
          nonsense(teller_.upstream(), framing_.body() ? framing_.what() : "an event that is no JSON object"));
    if (!string_member(*json, "code").empty()) return teller_.fail(failure_in_stream(teller_.upstream(), *json));
    if (const Json* usage = find_member(*json, "usage")) take_usage(*usage);
    const Json* output = find_member(*json, "output");
    const Json* choices = output != nullptr ? find_member(*output, "choices") : nullptr;
    if (choices != nullptr && choices->is_array())
      for (const Json& choice : *choices) take_choice(choice);
  }

  void take_usage(const Json& usage) {
    const Json* details = find_member(usage, "prompt_tokens_details");
    const Json* out = find_member(usage, "output_tokens_details");
    teller_.counted(count_of(usage, "input_tokens"), count_of(usage, "output_tokens"),
                    details != nullptr ? count_of(*details, "cached_tokens") : std::nullopt,
                    out != nullptr ? count_of(*out, "reasoning_tokens") : std::nullopt, written_of(usage));
  }

  void take_choice(const Json& choice) {
    const int index = count_of(choice, "index").value_or(0);
    if (const Json* message = find_member(choice, "message")) {
      teller_.reasoning(index, string_member(*message, "reasoning_content"));
      engine::Text text{.choice = index};
      if (const Json* content = find_member(*message, "content")) text.text = content_text(*content);
      if (const Json* logprobs = find_member(choice, "logprobs")) add_chat_logprobs(*logprobs, text.logprobs);
      teller_.text(std::move(text));
      if (const Json* calls = find_member(*message, "tool_calls"); calls != nullptr && calls->is_array())
        for (const Json& call : *calls)
          if (const Json* function = find_member(call, "function"))
            teller_.tool_call(index, count_of(call, "index").value_or(-1), string_member(call, "id"),
                              string_member(*function, "name"), arguments_text(find_member(*function, "arguments")));
    }
    // While it goes on, the reason is the text "null".
    const std::string_view reason = string_member(choice, "finish_reason");
    if (!reason.empty() && reason != "null") teller_.end({.choice = index, .reason = finish_reason(reason)});
  }

  Teller& teller_;
  Framing framing_;
  net::SseReader sse_{4 << 20};
};

class DashScope final : public Wire {
 public:
  DashScope(const UpstreamOptions& options, UpstreamSecrets secrets)
      : base_(base_url(options, "/api/v1")), stream_(options.stream) {
    headers_ = {{"content-type", "application/json"}};
    if (!secrets.api_key.empty()) headers_.emplace_back("authorization", "Bearer " + secrets.api_key);
  }

  Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const override {
    const auto* chat = std::get_if<engine::Chat>(&request.prompt.input);
    if (chat == nullptr)
      return Error{Code::unsupported, "an upstream of kind dashscope takes conversations, not bare texts"};
    const Json body = openai_body(request);
    TRY(refuse_members(body, "dashscope", {"logit_bias", "functions"}));
    TRY(refuse_other_parts(*chat->messages, "dashscope"));
    const bool parts = has_pictures(*chat->messages);
    Json messages = Json::array();
    for (const Json& message : *chat->messages) messages.push_back(message_of(message, parts));
    Json parameters{{"result_format", "message"}};
    if (stream_) parameters["incremental_output"] = true;
    for (const char* name : kParameters)
      if (const Json* value = find_member(body, name)) parameters[name] = *value;
    if (chat->tools) parameters["tools"] = *chat->tools;
    if (request.stopping.max_tokens > 0) parameters["max_tokens"] = request.stopping.max_tokens;
    const Json out{
        {"model", model}, {"input", {{"messages", std::move(messages)}}}, {"parameters", std::move(parameters)}};
    net::ClientRequest asked{
        .method = "POST",
        .url = fmt::format("{}/services/aigc/{}-generation/generation", base_, parts ? "multimodal" : "text"),
        .headers = headers_,
        .body = dump_json(out)};
    if (stream_) asked.headers.emplace_back("x-dashscope-sse", "enable");
    return asked;
  }
  std::unique_ptr<Reader> reader(const engine::Request&, const net::Headers& headers, Teller& teller) const override {
    return std::make_unique<DashScopeReader>(headers, teller);
  }
  // It has no list: that anything answers is enough.
  net::ClientRequest probe() const override { return {.url = base_ + "/models", .headers = headers_}; }
  bool lists() const override { return false; }
  Result<std::vector<Listed>> read_list(std::string_view body) const override { return read_openai_list(body); }

 private:
  const std::string base_;
  const bool stream_;
  net::Headers headers_;
};

}  // namespace

std::unique_ptr<Wire> make_dashscope(const UpstreamOptions& options, UpstreamSecrets secrets) {
  return std::make_unique<DashScope>(options, std::move(secrets));
}

}  // namespace ashlar::gateway
