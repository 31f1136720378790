// Kind `openai`: vLLM, SGLang, LMDeploy, TensorRT-LLM, TGI, llama-server, another Ashlar, DashScope's compatible
// mode...
#include "gateway/upstreams/openai.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/json_full.h"
#include "gateway/upstreams/chunk.h"
#include "gateway/upstreams/event_reader.h"
#include "gateway/upstreams/plain_chunk.h"
#include "net/url.h"
#include "store/digest.h"
#include "store/wire.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxListed = 10'000;

// Members of a delta that have events of their own, or say nothing.
bool is_known(std::string_view name) {
  for (const std::string_view each : {"role", "content", "reasoning_content", "reasoning", "tool_calls"})
    if (each == name) return true;
  return false;
}

std::string bytes_of(const Json& token) {
  std::string out;
  const Json* bytes = find_member(token, "bytes");
  if (bytes == nullptr || !bytes->is_array()) return std::string(string_member(token, "token"));
  for (const Json& byte : *bytes)
    if (byte.is_number_integer()) out.push_back(static_cast<char>(byte.get<int>()));
  return out;
}

float logprob_of(const Json& token) {
  const Json* value = find_member(token, "logprob");
  return value != nullptr && value->is_number() ? value->get<float>() : -9999.0f;
}

// A completion's: parallel lists.
void add_text_logprobs(const Json& logprobs, std::vector<engine::TokenLogprob>& out) {
  const Json *tokens = find_member(logprobs, "tokens"), *values = find_member(logprobs, "token_logprobs"),
             *tops = find_member(logprobs, "top_logprobs");
  if (tokens == nullptr || values == nullptr || !tokens->is_array() || !values->is_array()) return;
  for (std::size_t i = 0; i < std::min(tokens->size(), values->size()); ++i) {
    engine::TokenLogprob next{.logprob = (*values)[i].is_number() ? (*values)[i].get<float>() : -9999.0f};
    if ((*tokens)[i].is_string()) next.bytes = (*tokens)[i].get<std::string>();
    if (tops != nullptr && tops->is_array() && i < tops->size() && (*tops)[i].is_object())
      for (const auto& [text, value] : (*tops)[i].items())
        if (value.is_number()) next.top.push_back({.logprob = value.get<float>(), .bytes = text});
    out.push_back(std::move(next));
  }
}

class OpenAiReader final : public EventReader {
 public:
  using EventReader::EventReader;

 private:
  // What was read to its end is whole, also where a choice does not say why it ended.
  void take_whole(const Json& answer) override {
    take_chunk(answer);
    const Json* choices = find_member(answer, "choices");
    if (choices == nullptr || !choices->is_array()) return;
    for (const Json& choice : *choices)
      if (find_member(choice, "message") != nullptr || find_member(choice, "text") != nullptr)
        teller_.end({.choice = count_of(choice, "index").value_or(0)});
  }
  void take_event(const net::SseEvent& event) override {
    if (teller_.failure() || teller_.over()) return;
    if (event.data.starts_with("[DONE]")) {
      if (!teller_.begun()) return teller_.fail(nonsense(teller_.upstream(), "no answer"));
      return teller_.done();
    }
    if (auto text = event.type == "message" ? plain_.read(event.data) : std::nullopt)
      return teller_.text(std::move(*text));
    if (event.type == "message")
      if (auto chunk = read_chunk(event.data); chunk && (chunk->choice || chunk->usage)) {
        if (!chunk->text.empty()) plain_.learn(event.data, *chunk);
        return take(std::move(*chunk));
      }
    const auto chunk = parse_answer(event.data);
    if (!chunk || !chunk->is_object())
      return teller_.fail(nonsense(teller_.upstream(), "an event that is no JSON object"));
    if (event.type == "error" && !chunk->contains("error"))
      return teller_.fail(failure_in_stream(teller_.upstream(), *chunk));
    take_chunk(*chunk);
  }

  void take(Chunk chunk) {
    if (const auto& usage = chunk.usage)
      teller_.counted(usage->prompt, usage->completion, usage->cached, usage->reasoning);
    if (!chunk.choice) return;
    teller_.reasoning(*chunk.choice, chunk.thought);
    teller_.text({.choice = *chunk.choice, .text = std::move(chunk.text)});
    if (!chunk.finish.empty()) teller_.end({.choice = *chunk.choice, .reason = finish_reason(chunk.finish)});
  }

  void take_chunk(const Json& chunk) {
    if (const Json* error = find_member(chunk, "error"))
      return teller_.fail(failure_in_stream(teller_.upstream(), *error));
    if (string_member(chunk, "object") == "error")  // of vLLM's older servers, and those that took its form
      return teller_.fail(failure_in_stream(teller_.upstream(), chunk));
    if (const Json* usage = find_member(chunk, "usage")) teller_.usage(*usage);
    if (const Json* results = find_member(chunk, "prompt_filter_results"); results != nullptr && results->is_array())
      teller_.members(0, {{"prompt_filter_results", *results}}, engine::Members::Of::answer);
    const Json* choices = find_member(chunk, "choices");
    if (choices == nullptr || !choices->is_array()) return;
    for (const Json& choice : *choices) take_choice(choice);
  }

  void take_choice(const Json& choice) {
    const int index = count_of(choice, "index").value_or(0);
    const Json* message = find_member(choice, "delta");
    if (message == nullptr) message = find_member(choice, "message");
    const Json* logprobs = find_member(choice, "logprobs");
    engine::Text text{.choice = index};
    if (message != nullptr && message->is_object()) {
      std::string_view thought = string_member(*message, "reasoning_content");
      if (thought.empty()) thought = string_member(*message, "reasoning");
      teller_.reasoning(index, thought);
      if (const Json* content = find_member(*message, "content")) text.text = content_text(*content);
      if (logprobs != nullptr) add_chat_logprobs(*logprobs, text.logprobs);
    } else {
      text.text = string_member(choice, "text");
      if (logprobs != nullptr) add_text_logprobs(*logprobs, text.logprobs);
    }
    teller_.text(std::move(text));
    if (message != nullptr && message->is_object()) take_rest(index, *message);
    take_filters(index, choice);
    if (const auto reason = string_member(choice, "finish_reason"); !reason.empty()) take_end(index, reason, choice);
  }

  // Azure's; some come behind the choice's end.
  void take_filters(int index, const Json& choice) {
    Json found = Json::object();
    for (const char* const name : {"content_filter_results", "content_filter_offsets"})
      if (const Json* said = find_member(choice, name); said != nullptr && said->is_object() && !said->empty())
        found[name] = *said;
    if (!found.empty()) teller_.members(index, std::move(found), engine::Members::Of::choice);
  }

  void take_rest(int index, const Json& message) {
    if (const Json* calls = find_member(message, "tool_calls"); calls != nullptr && calls->is_array())
      for (const Json& call : *calls) {
        const int place = count_of(call, "index").value_or(-1);
        const auto id = string_member(call, "id");
        if (const Json* custom = find_member(call, "custom"); custom != nullptr && custom->is_object()) {
          teller_.tool_call(index, place, id, string_member(*custom, "name"), string_member(*custom, "input"), true);
          continue;
        }
        const Json* function = find_member(call, "function");
        const Json nothing = Json::object();
        if (function == nullptr) function = &nothing;
        teller_.tool_call(index, place, id, string_member(*function, "name"),
                          arguments_text(find_member(*function, "arguments")));
      }
    Json more = Json::object();
    for (const auto& [name, value] : message.items())
      if (!is_known(name) && !value.is_null() && !(value.is_string() && value.get_ref<const std::string&>().empty()) &&
          !((value.is_array() || value.is_object()) && value.empty()))
        more[name] = value;
    if (!more.empty()) teller_.members(index, std::move(more));
  }

  void take_end(int index, std::string_view reason, const Json& choice) {
    engine::ChoiceEnd end{.choice = index, .reason = finish_reason(reason)};
    if (const Json* why = find_member(choice, "stop_reason")) {  // vLLM's
      if (why->is_string()) end.stop_string = why->get<std::string>();
      if (why->is_number_integer()) end.stop_token = why->get<std::int32_t>();
    }
    teller_.end(std::move(end));
  }

  PlainChunk plain_;
};

// OpenAI's service or Azure's, not one that only speaks as they do.
bool is_openais_own(std::string_view url) {
  const auto parsed = net::parse_url(url);
  if (!parsed) return false;
  const std::string_view host = parsed->host;
  return host == "api.openai.com" || host.ends_with(".api.openai.com") || host.ends_with(".openai.azure.com");
}

class OpenAi final : public Wire {
 public:
  OpenAi(const UpstreamOptions& options, UpstreamSecrets secrets)
      : base_(base_url(options, "/v1")),
        health_(options.health_path),
        form_{.stream = options.stream,
              .continuous_usage = options.continuous_usage,
              .most = is_openais_own(base_) ? kNewerMost : kOlderMost},
        is_ashlar_(options.blocks_interval.count() > 0) {
    headers_ = {{"content-type", "application/json"},
                {"accept", form_.stream ? "text/event-stream, application/json" : "application/json"}};
    if (!secrets.api_key.empty()) headers_.emplace_back("authorization", "Bearer " + secrets.api_key);
  }

  Result<net::ClientRequest> ask(const engine::Request& request, const std::string& model) const override {
    const bool chat = std::holds_alternative<engine::Chat>(request.prompt.input);
    const char* path = chat ? "/chat/completions" : "/completions";
    if (!is_ashlar_) return post(path, openai_text(request, model, form_));
    engine::Request salted = request;
    Json body = openai_body(request);
    body["cache_salt"] = blocks_salt(request);
    salted.body = std::make_shared<const Json>(std::move(body));
    net::ClientRequest out = post(path, openai_text(salted, model, form_));
    if (request.prefix_salt)
      out.headers.emplace_back("x-ashlar-prefix-salt", fmt::format("{:016x}", *request.prefix_salt));
    return out;
  }
  std::unique_ptr<Reader> reader(const engine::Request& request, const net::Headers& headers,
                                 Teller& teller) const override {
    return make_openai_reader(request, headers, teller);
  }
  net::ClientRequest probe() const override { return {.url = base_ + "/models", .headers = headers_}; }
  Result<std::vector<Listed>> read_list(std::string_view body) const override { return read_openai_list(body); }

  // Beside the API, not within it.
  std::optional<net::ClientRequest> ask_load() const override {
    const std::string_view root = base_;
    return net::ClientRequest{
        .url = std::string(root.substr(0, root.size() - (root.ends_with("/v1") ? 3 : 0))) + "/metrics",
        .headers = headers_};
  }

  std::optional<net::ClientRequest> ask_prefixes(const std::string& model, std::uint64_t book,
                                                 std::uint64_t sequence) const override {
    if (!is_ashlar_) return std::nullopt;
    return net::ClientRequest{.url = fmt::format("{}/cache/prefixes/{}?book={:016x}&since={}", base_,
                                                 store::percent_encode(model, true), book, sequence),
                              .headers = headers_};
  }

  Result<net::ClientRequest> ask_vectors(const engine::EmbedRequest& request, const std::string& model) const override {
    return post("/embeddings", openai_vectors_text(request, model));
  }
  Result<engine::Embeddings> read_vectors(std::string_view body, std::size_t count) const override {
    return read_openai_vectors(body, count);
  }

 private:
  net::ClientRequest post(std::string_view path, std::string body) const {
    return {.method = "POST", .url = base_ + std::string(path), .headers = headers_, .body = std::move(body)};
  }

  const std::string base_, health_;
  const OpenAiForm form_;
  const bool is_ashlar_;
  net::Headers headers_;
};

// Where a conversation went through templates, arguments are objects; on the wire they are texts.
bool has_arguments_as_objects(const Json& messages) {
  for (const Json& message : messages) {
    const Json* calls = find_member(message, "tool_calls");
    if (calls == nullptr || !calls->is_array()) continue;
    for (const Json& call : *calls)
      if (const Json* function = find_member(call, "function"))
        if (const Json* arguments = find_member(*function, "arguments");
            arguments != nullptr && !arguments->is_string())
          return true;
  }
  return false;
}

void write_arguments_as_texts(Json& messages) {
  for (Json& message : messages) {
    if (!message.is_object() || !message.contains("tool_calls") || !message["tool_calls"].is_array()) continue;
    for (Json& call : message["tool_calls"])
      if (call.is_object() && call.contains("function") && call["function"].is_object() &&
          call["function"].contains("arguments"))
        call["function"]["arguments"] = arguments_text(&call["function"]["arguments"]);
  }
}

std::string messages_text(const Json& messages) {
  if (!has_arguments_as_objects(messages)) return dump_json(messages);
  Json written = messages;
  write_arguments_as_texts(written);
  return dump_json(written);
}

std::string_view stream_options(const OpenAiForm& form) {
  return form.continuous_usage ? R"({"include_usage":true,"continuous_usage_stats":true})"
                               : R"({"include_usage":true})";
}

// A chat's body as its client wrote it, but for what the request says otherwise: openai_body() without copying it.
std::string chat_text(const engine::Request& request, const engine::Chat& chat, const std::string& model,
                      const OpenAiForm& form) {
  std::string_view most = form.most;
  for (const std::string_view said : {kOlderMost, kNewerMost})  // the newer counts where there are both
    if (find_member(*request.body, said) != nullptr) most = said;
  // In place of the client's; none: not sent.
  std::vector<std::pair<std::string_view, std::string>> ours;
  ours.reserve(8);
  append_json_string(ours.emplace_back("model", "").second, model);
  ours.emplace_back("messages", messages_text(*chat.messages));
  ours.emplace_back("stream", form.stream ? "true" : "");
  ours.emplace_back("stream_options", form.stream ? stream_options(form) : "");
  ours.emplace_back("request_id", "");
  ours.emplace_back("tools", chat.tools ? dump_json(*chat.tools) : "");
  if (request.stopping.max_tokens >= 0) ours.emplace_back(most, fmt::format("{}", request.stopping.max_tokens));
  if (request.n > 1) ours.emplace_back("n", fmt::format("{}", request.n));
  if (request.body->contains("priority")) ours.emplace_back("priority", fmt::format("{}", request.priority));
  std::string out;
  const auto say = [&](std::string_view name, std::string_view value) {
    out.push_back(out.empty() ? '{' : ',');
    append_json_string(out, name);
    out.append(":").append(value);
  };
  for (const auto& [name, value] : request.body->items())
    if (std::ranges::find(ours, name, [](const auto& each) { return each.first; }) == ours.end())
      say(name, dump_json(value));
  for (const auto& [name, value] : ours)
    if (!value.empty()) say(name, value);
  return out + '}';
}

}  // namespace

void add_chat_logprobs(const Json& logprobs, std::vector<engine::TokenLogprob>& out) {
  const Json* tokens = find_member(logprobs, "content");
  if (tokens == nullptr || !tokens->is_array()) return;
  for (const Json& token : *tokens) {
    engine::TokenLogprob next{.logprob = logprob_of(token), .bytes = bytes_of(token)};
    if (const Json* top = find_member(token, "top_logprobs"); top != nullptr && top->is_array())
      for (const Json& each : *top) next.top.push_back({.logprob = logprob_of(each), .bytes = bytes_of(each)});
    out.push_back(std::move(next));
  }
}

std::unique_ptr<Reader> make_openai_reader(const engine::Request&, const net::Headers& headers, Teller& teller) {
  return std::make_unique<OpenAiReader>(headers, teller);
}

std::string blocks_salt(const engine::Request& request) {
  return store::to_hex(
      store::sha256(fmt::format("{}:{}{}", request.tenant.size(), request.tenant, request.cache_salt)));
}

std::string openai_text(const engine::Request& request, const std::string& model, const OpenAiForm& form) {
  if (const auto* chat = std::get_if<engine::Chat>(&request.prompt.input); chat != nullptr && request.body != nullptr)
    return chat_text(request, *chat, model, form);
  Json body = openai_body(request);
  body["model"] = model;
  if (body.contains("messages")) {
    write_arguments_as_texts(body["messages"]);
    if (const Json* said = find_member(body, kOlderMost); said != nullptr && form.most != kOlderMost) {
      body[std::string(form.most)] = Json(*said);
      body.erase(std::string(kOlderMost));
    }
  }
  if (form.stream) {
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
    if (form.continuous_usage) body["stream_options"]["continuous_usage_stats"] = true;
  }
  if (request.body == nullptr && request.logprobs >= 0) {
    if (body.contains("messages")) {
      body["logprobs"] = true;
      body["top_logprobs"] = request.logprobs;
    } else {
      body["logprobs"] = request.logprobs;
    }
  }
  return dump_json(body);
}

std::string openai_vectors_text(const engine::EmbedRequest& request, const std::string& model) {
  Json body{{"model", model}, {"input", Json::array()}, {"encoding_format", "float"}};
  for (const auto& input : request.inputs) std::visit([&](const auto& each) { body["input"].push_back(each); }, input);
  if (request.dimensions > 0) body["dimensions"] = request.dimensions;
  if (request.truncate >= 0) body["truncate_prompt_tokens"] = request.truncate == 0 ? -1 : request.truncate;
  return dump_json(body);
}

Result<std::vector<Listed>> read_openai_list(std::string_view body) {
  const Json answer = TRY(parse_answer(body));
  const Json* data = answer.is_array() ? &answer : find_member(answer, "data");
  if (data == nullptr) data = find_member(answer, "models");
  if (data == nullptr || !data->is_array() || data->size() > kMaxListed)
    return Error{Code::corrupt, "no list of models"};
  std::vector<Listed> out;
  for (const Json& item : *data) {
    Listed next{.id = std::string(string_member(item, "id"))};
    if (next.id.empty()) next.id = string_member(item, "name");
    const bool plain = std::ranges::all_of(next.id, [](unsigned char c) { return c > 0x20 && c != 0x7f; });
    if (next.id.empty() || next.id.size() > 256 || !plain) continue;
    next.context = count_of(item, "max_model_len").value_or(0);
    next.created = count_of(item, "created").value_or(0);
    if (const Json* meta = find_member(item, "meta")) {  // llama-server's, and ours
      if (next.context == 0) next.context = count_of(*meta, "n_ctx").value_or(0);
      if (next.context == 0) next.context = count_of(*meta, "n_ctx_train").value_or(0);
      if (const Json* generates = find_member(*meta, "generates"); generates != nullptr && generates->is_boolean()) {
        next.generates = generates->get<bool>();
        next.embedding = count_of(*meta, "n_embd").value_or(0);
      }
    }
    out.push_back(std::move(next));
  }
  return out;
}

std::unique_ptr<Wire> make_openai(const UpstreamOptions& options, UpstreamSecrets secrets) {
  return std::make_unique<OpenAi>(options, std::move(secrets));
}

}  // namespace ashlar::gateway
