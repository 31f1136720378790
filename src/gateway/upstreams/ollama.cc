// Kind `ollama`: POST /api/chat, a JSON value on each line.
#include <fmt/format.h>

#include <utility>

#include "base/json_full.h"
#include "gateway/upstreams/conversation.h"
#include "gateway/upstreams/openai.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxLine = 4 << 20;

// Ollama's messages are OpenAI's, but for arguments that are objects, pictures beside the text, and names of tools.
Result<Json> read_message(const Json& message, Json& names) {
  Json out{{"role", string_member(message, "role")}};
  const Json* content = find_member(message, "content");
  out["content"] = content != nullptr ? content_text(*content) : "";
  if (out["role"] == "developer") out["role"] = "system";
  if (content != nullptr && content->is_array())
    for (const Json& part : *content) {
      const Json* image = find_member(part, "image_url");
      if (image == nullptr) continue;
      const auto data = data_url(image->is_string() ? std::string_view(image->get_ref<const std::string&>())
                                                    : string_member(*image, "url"));
      if (!data) return Error{Code::unsupported, "an upstream of kind ollama takes pictures only as data: addresses"};
      out["images"].push_back(data->base64);
    }
  for (const char* name : {"reasoning_content", "reasoning", "thinking"})
    if (const auto text = string_member(message, name); !text.empty()) out["thinking"] = text;
  if (const Json* calls = find_member(message, "tool_calls"); calls != nullptr && calls->is_array())
    for (const Json& call : *calls)
      if (const Json* function = find_member(call, "function")) {
        const auto name = string_member(*function, "name");
        if (const auto id = string_member(call, "id"); !id.empty()) names[std::string(id)] = name;
        out["tool_calls"].push_back(
            {{"function", {{"name", name}, {"arguments", arguments_object(find_member(*function, "arguments"))}}}});
      }
  if (const std::string id(string_member(message, "tool_call_id")); !id.empty() && names.contains(id))
    out["tool_name"] = names[id];
  return out;
}

void say_options(const Json& body, const engine::Request& request, Json& out) {
  constexpr std::pair<const char*, const char*> kNames[] = {{"temperature", "temperature"},
                                                            {"top_p", "top_p"},
                                                            {"top_k", "top_k"},
                                                            {"min_p", "min_p"},
                                                            {"seed", "seed"},
                                                            {"repetition_penalty", "repeat_penalty"},
                                                            {"presence_penalty", "presence_penalty"},
                                                            {"frequency_penalty", "frequency_penalty"}};
  Json options = Json::object();
  if (const Json* given = find_member(body, "options"); given != nullptr && given->is_object()) options = *given;
  for (const auto& [ours, theirs] : kNames)
    if (const Json* value = find_member(body, ours)) options[theirs] = *value;
  if (const auto stops = read_stops(body); !stops.empty()) options["stop"] = stops;
  if (request.stopping.max_tokens >= 0) options["num_predict"] = request.stopping.max_tokens;
  if (!options.empty()) out["options"] = std::move(options);
  if (const auto schema = read_schema(body))
    out["format"] = *schema == Json{{"type", "object"}} ? Json("json") : *schema;
  if (const Json* keep = find_member(body, "keep_alive")) out["keep_alive"] = *keep;
  if (const Json* think = find_member(body, "think")) out["think"] = *think;
  if (const auto effort = string_member(body, "reasoning_effort"); !effort.empty())
    out["think"] = effort == "none" ? Json(false) : effort == "minimal" ? Json("low") : Json(effort);
}

class OllamaReader final : public Reader {
 public:
  explicit OllamaReader(Teller& teller) : teller_(teller) {}

  void read(std::string_view bytes) override {
    while (!bytes.empty() && !teller_.failure() && !teller_.over()) {
      const auto end = bytes.find('\n');
      line_.append(bytes.substr(0, end));
      if (line_.size() > kMaxLine) return teller_.fail(nonsense(teller_.upstream(), "a line that is too long"));
      if (end == bytes.npos) return;
      bytes.remove_prefix(end + 1);
      take_line(std::exchange(line_, {}));
    }
  }
  void end() override {
    if (!teller_.failure() && !teller_.over()) take_line(std::exchange(line_, {}));  // the last may have no newline
    teller_.closed();
  }

 private:
  void take_line(const std::string& line) {
    if (line.find_first_not_of(" \t\r\n") == line.npos) return;
    const auto json = parse_answer(line);
    if (!json || !json->is_object()) return teller_.fail(nonsense(teller_.upstream(), "a line that is no JSON object"));
    if (const Json* error = find_member(*json, "error"))
      return teller_.fail(failure_in_stream(teller_.upstream(), *error));
    teller_.counted(count_of(*json, "prompt_eval_count"), count_of(*json, "eval_count"));
    if (const Json* message = find_member(*json, "message")) take_message(*message);
    teller_.reasoning(0, string_member(*json, "thinking"));
    teller_.text({.text = std::string(string_member(*json, "response"))});  // of /api/generate
    const Json* done = find_member(*json, "done");
    if (done == nullptr || *done != Json(true)) return;
    teller_.end({.reason = finish_reason(string_member(*json, "done_reason"))});
    teller_.done();
  }

  // A call comes whole: each begins a new one.
  void take_message(const Json& message) {
    teller_.reasoning(0, string_member(message, "thinking"));
    teller_.text({.text = std::string(string_member(message, "content"))});
    if (const Json* calls = find_member(message, "tool_calls"); calls != nullptr && calls->is_array())
      for (const Json& call : *calls) {
        const Json* function = find_member(call, "function");
        if (function == nullptr) continue;
        teller_.tool_call(0, calls_++, string_member(call, "id"), string_member(*function, "name"),
                          dump_json(arguments_object(find_member(*function, "arguments"))));
      }
  }

  Teller& teller_;
  std::string line_;
  int calls_ = 0;
};

class Ollama final : public Wire {
 public:
  Ollama(const UpstreamOptions& options, UpstreamSecrets secrets) : base_(base_url(options)), stream_(options.stream) {
    headers_ = {{"content-type", "application/json"}};
    if (!secrets.api_key.empty()) headers_.emplace_back("authorization", "Bearer " + secrets.api_key);
  }

  Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const override {
    const Json body = openai_body(request);
    TRY(refuse_members(body, "ollama", {"n", "logprobs", "logit_bias", "functions", "suffix"}));
    Json out{{"model", model}};
    say_options(body, request, out);
    out["stream"] = stream_;
    if (const auto* chat = std::get_if<engine::Chat>(&request.prompt.input)) {
      const ToolChoice choice = read_tool_choice(body);
      if (choice.kind == ToolChoice::Kind::any || choice.kind == ToolChoice::Kind::one)
        return Error{Code::unsupported, "an upstream of kind ollama cannot be made to call a tool ('tool_choice')"};
      if (chat->tools && choice.kind != ToolChoice::Kind::none) out["tools"] = *chat->tools;
      TRY(refuse_other_parts(*chat->messages, "ollama"));
      Json names = Json::object();
      out["messages"] = Json::array();
      for (const Json& message : *chat->messages) out["messages"].push_back(TRY(read_message(message, names)));
      return post("/api/chat", out);
    }
    const auto* text = std::get_if<std::string>(&request.prompt.input);
    if (text == nullptr || request.echo)
      return Error{Code::unsupported, "an upstream of kind ollama takes texts, without 'echo'"};
    out["prompt"] = *text;
    out["raw"] = true;
    return post("/api/generate", out);
  }
  std::unique_ptr<Reader> reader(const engine::Request&, const net::Headers&, Teller& teller) const override {
    return std::make_unique<OllamaReader>(teller);
  }
  net::ClientRequest probe() const override { return {.url = base_ + "/api/tags", .headers = headers_}; }
  Result<std::vector<Listed>> read_list(std::string_view body) const override { return read_openai_list(body); }

  Result<net::ClientRequest> ask_vectors(const engine::EmbedRequest& request, const std::string& model) const override {
    Json out{{"model", model}, {"input", Json::array()}, {"truncate", request.truncate >= 0}};
    for (const auto& input : request.inputs) {
      const auto* text = std::get_if<std::string>(&input);
      if (text == nullptr) return Error{Code::unsupported, "an upstream of kind ollama takes texts, not token ids"};
      out["input"].push_back(*text);
    }
    if (request.dimensions > 0) out["dimensions"] = request.dimensions;
    return post("/api/embed", out);
  }
  // OpenAI's list from {"embeddings": [[...]]}.
  Result<engine::Embeddings> read_vectors(std::string_view body, std::size_t count) const override {
    const Json answer = TRY(parse_json(body, {.depth = 8}));
    Json list{{"data", Json::array()}};
    if (const Json* vectors = find_member(answer, "embeddings"); vectors != nullptr && vectors->is_array())
      for (const Json& vector : *vectors) list["data"].push_back({{"embedding", vector}});
    if (const auto tokens = count_of(answer, "prompt_eval_count")) list["usage"] = {{"prompt_tokens", *tokens}};
    return read_openai_vectors(dump_json(list), count);
  }

 private:
  net::ClientRequest post(std::string_view path, const Json& body) const {
    return {.method = "POST", .url = base_ + std::string(path), .headers = headers_, .body = dump_json(body)};
  }

  const std::string base_;
  const bool stream_;
  net::Headers headers_;
};

}  // namespace

std::unique_ptr<Wire> make_ollama(const UpstreamOptions& options, UpstreamSecrets secrets) {
  return std::make_unique<Ollama>(options, std::move(secrets));
}

}  // namespace ashlar::gateway
