#include "gateway/upstreams/wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/json_full.h"
#include "gateway/upstreams/secrets.h"
#include "store/digest.h"

namespace ashlar::gateway {
namespace {

struct Kind {
  std::string_view name;
  std::string_view url;  // where there is one for everybody
  std::unique_ptr<Wire> (*make)(const UpstreamOptions&, UpstreamSecrets);
};

constexpr Kind kKinds[] = {
    {"openai", "", make_openai},
    {"ollama", "http://127.0.0.1:11434", make_ollama},
    {"anthropic", "https://api.anthropic.com", make_anthropic},
    {"azure", "", make_azure},
    {"bedrock", "", make_bedrock},
    {"dashscope", "https://dashscope.aliyuncs.com", make_dashscope},
};

const Kind* find_kind(std::string_view name) {
  const auto* found = std::ranges::find(kKinds, name, &Kind::name);
  return found == std::end(kKinds) ? nullptr : found;
}

// What differs from what everybody takes a request to mean.
void say_sampling(Json& out, const engine::Sampling& sampling) {
  const engine::Sampling usual;
  if (sampling.temperature != usual.temperature) out["temperature"] = sampling.temperature;
  if (sampling.top_p != usual.top_p) out["top_p"] = sampling.top_p;
  if (sampling.top_k > 0) out["top_k"] = sampling.top_k;
  if (sampling.min_p != usual.min_p) out["min_p"] = sampling.min_p;
  if (sampling.repetition_penalty != usual.repetition_penalty) out["repetition_penalty"] = sampling.repetition_penalty;
  if (sampling.presence_penalty != usual.presence_penalty) out["presence_penalty"] = sampling.presence_penalty;
  if (sampling.frequency_penalty != usual.frequency_penalty) out["frequency_penalty"] = sampling.frequency_penalty;
  if (sampling.seed) out["seed"] = *sampling.seed;
  for (const auto& [id, bias] : sampling.logit_bias) out["logit_bias"][std::to_string(id)] = bias;
}

}  // namespace

std::vector<std::string> upstream_kinds() {
  std::vector<std::string> out;
  for (const Kind& kind : kKinds) out.emplace_back(kind.name);
  return out;
}

std::string default_url(const UpstreamOptions& options) {
  if (options.kind == "bedrock" && !options.region.empty())
    return fmt::format("https://bedrock-runtime.{}.amazonaws.com", options.region);
  const Kind* kind = find_kind(options.kind);
  return std::string(kind != nullptr ? kind->url : "");
}

std::unique_ptr<Wire> make_wire(const UpstreamOptions& options, UpstreamSecrets secrets) {
  const Kind* kind = find_kind(options.kind);
  CHECK(kind != nullptr, "the kind was checked with the options");
  return kind->make(options, std::move(secrets));
}

Result<UpstreamSecrets> read_secrets(const UpstreamOptions& options) {
  UpstreamSecrets out;
  const std::pair<const char*, std::pair<const std::string*, std::string*>> all[] = {
      {"api_key", {&options.api_key, &out.api_key}},
      {"access_key", {&options.access_key, &out.access_key}},
      {"secret_key", {&options.secret_key, &out.secret_key}},
      {"session_token", {&options.session_token, &out.session_token}}};
  for (const auto& [name, from_to] : all) {
    if (from_to.first->empty()) continue;
    auto secret = read_secret(*from_to.first);
    if (!secret)
      return Error{secret.error().code,
                   fmt::format("upstream '{}': {}: {}", options.name, name, secret.error().message)};
    *from_to.second = std::move(*secret);
  }
  return out;
}

Result<net::ClientRequest> Wire::ask_vectors(const engine::EmbedRequest& request, const std::string&) const {
  return Error{Code::unsupported, fmt::format("the upstream of '{}' gives no embeddings", request.model)};
}

Result<engine::Embeddings> Wire::read_vectors(std::string_view, std::size_t) const {
  return Error{Code::unsupported, "this kind of upstream gives no embeddings"};
}

std::string base_url(const UpstreamOptions& options, std::string_view instead_of_none) {
  std::string url = options.url.empty() ? default_url(options) : options.url;
  while (url.ends_with('/')) url.pop_back();
  const auto scheme = url.find("://");
  if (scheme != url.npos && url.find('/', scheme + 3) == url.npos) url += instead_of_none;
  return url;
}

Json openai_body(const engine::Request& request) {
  Json out = Json::object();
  if (request.body != nullptr)
    out = *request.body;
  else
    say_sampling(out, request.sampling);
  for (const char* ours : {"stream", "stream_options", "request_id"}) out.erase(ours);
  if (const auto* chat = std::get_if<engine::Chat>(&request.prompt.input)) {
    out["messages"] = *chat->messages;
    if (chat->tools)
      out["tools"] = *chat->tools;
    else
      out.erase("tools");
  } else {
    std::visit(
        [&](const auto& prompt) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(prompt)>, engine::Chat>) out["prompt"] = prompt;
        },
        request.prompt.input);
    if (request.echo) out["echo"] = true;
  }
  const bool new_name = out.contains("max_completion_tokens");
  if (request.stopping.max_tokens >= 0)
    out[new_name ? "max_completion_tokens" : "max_tokens"] = request.stopping.max_tokens;
  if (request.body == nullptr && !request.stopping.stop.empty()) out["stop"] = request.stopping.stop;
  if (request.n > 1) out["n"] = request.n;
  if (out.contains("priority")) out["priority"] = request.priority;  // as far as its sender may be urgent
  return out;
}

const Json* find_member(const Json& object, std::string_view name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string_view string_member(const Json& object, std::string_view name) {
  const Json* found = find_member(object, name);
  return found != nullptr && found->is_string() ? std::string_view(found->get_ref<const std::string&>())
                                                : std::string_view();
}

Json arguments_object(const Json* arguments) {
  if (arguments == nullptr) return Json::object();
  if (arguments->is_object()) return *arguments;
  if (!arguments->is_string()) return {{"input", *arguments}};
  const auto& text = arguments->get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == text.npos) return Json::object();
  auto parsed = parse_json(text);
  return parsed && parsed->is_object() ? std::move(*parsed) : Json{{"input", text}};
}

std::string arguments_text(const Json* arguments) {
  if (arguments == nullptr) return "";
  return arguments->is_string() ? arguments->get<std::string>() : dump_json(*arguments);
}

std::string content_text(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  std::string out;
  if (content.is_array())
    for (const Json& part : content) {
      const std::string_view text =
          part.is_string() ? std::string_view(part.get_ref<const std::string&>()) : string_member(part, "text");
      if (!out.empty() && !text.empty()) out.push_back('\n');
      out.append(text);
    }
  return out;
}

std::optional<DataUrl> data_url(std::string_view url) {
  constexpr std::string_view kMark = ";base64,";
  if (!url.starts_with("data:")) return std::nullopt;
  const auto mark = url.find(kMark);
  if (mark == url.npos) return std::nullopt;
  return DataUrl{url.substr(5, mark - 5), url.substr(mark + kMark.size())};
}

std::optional<net::ClientRequest> Wire::ask_prefixes(const std::string&, std::uint64_t, std::uint64_t) const {
  return std::nullopt;
}

Result<Json> parse_answer(std::string_view text) { return parse_json(text, {.depth = 64, .members = 4096}); }

engine::FinishReason finish_reason(std::string_view name) {
  using engine::FinishReason;
  constexpr std::pair<std::string_view, FinishReason> kNames[] = {{"length", FinishReason::length},
                                                                  {"max_tokens", FinishReason::length},
                                                                  {"tool_calls", FinishReason::tool_calls},
                                                                  {"function_call", FinishReason::function_call},
                                                                  {"tool_use", FinishReason::tool_calls},
                                                                  {"content_filter", FinishReason::content_filter},
                                                                  {"abort", FinishReason::abort}};
  for (const auto& [each, reason] : kNames)
    if (each == name) return reason;
  return FinishReason::stop;
}

Result<engine::Embeddings> read_openai_vectors(std::string_view body, std::size_t count) {
  const Json answer = TRY(parse_json(body, {.depth = 16}));
  const Error wrong{Code::corrupt, "no list of vectors"};
  const Json* data = find_member(answer, "data");
  if (data == nullptr || !data->is_array() || data->size() != count || count == 0) return wrong;
  engine::Embeddings out;
  std::vector<bool> seen(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Json& item = (*data)[i];
    const auto index = count_of(item, "index").value_or(static_cast<int>(i));
    const Json* vector = find_member(item, "embedding");
    if (index < 0 || index >= std::ssize(*data) || seen[static_cast<std::size_t>(index)] || vector == nullptr)
      return wrong;
    seen[static_cast<std::size_t>(index)] = true;
    std::vector<float> values;
    if (vector->is_string()) {  // asked for or not
      const auto raw = store::base64_decode(vector->get_ref<const std::string&>());
      if (!raw || raw->size() % sizeof(float) != 0) return wrong;
      values.resize(raw->size() / sizeof(float));
      if (!raw->empty()) std::memcpy(values.data(), raw->data(), raw->size());
    } else if (vector->is_array()) {
      for (const Json& value : *vector) {
        if (!value.is_number()) return wrong;
        values.push_back(value.get<float>());
      }
    }
    if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) return wrong;
    if (values.empty() || (out.dimensions != 0 && std::ssize(values) != out.dimensions)) return wrong;
    out.dimensions = static_cast<int>(values.size());
    out.values.resize(count * values.size());
    std::ranges::copy(values, out.values.begin() + static_cast<std::ptrdiff_t>(index) * out.dimensions);
  }
  if (const Json* usage = find_member(answer, "usage"))
    out.prompt_tokens = count_of(*usage, "prompt_tokens").value_or(0);
  return out;
}

}  // namespace ashlar::gateway
