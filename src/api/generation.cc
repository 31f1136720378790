#include "api/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <random>

#include "api/routes.h"
#include "base/json_full.h"
#include "net/http_text.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMaxStops = 16;
constexpr std::size_t kMaxStopBytes = 4096;
constexpr std::size_t kMaxHint = 256;  // bytes of a header that says how to route
constexpr double kNoLimit = std::numeric_limits<double>::max();

void read_stops(Fields& fields, std::vector<std::string>& out) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  std::vector<std::string> stops;
  if (stop->is_string()) {
    stops.push_back(stop->get<std::string>());
  } else if (stop->is_array()) {
    if (stop->size() > kMaxStops)
      return fields.fail(
          bad("stop", fmt::format("'stop' has {} strings; at most {} are allowed", stop->size(), kMaxStops)));
    for (const Json& item : *stop) {
      if (!item.is_string())
        return fields.fail(bad("stop", fmt::format("'stop' should hold strings, not {}", kind(item))));
      stops.push_back(item.get<std::string>());
    }
  } else {
    return fields.fail(
        bad("stop", fmt::format("'stop' should be a string or an array of strings, not {}", kind(*stop))));
  }
  for (const std::string& text : stops) {
    if (text.empty()) return fields.fail(bad("stop", "'stop' holds an empty string, which would stop at once"));
    if (text.size() > kMaxStopBytes)
      return fields.fail(bad("stop", fmt::format("'stop' holds a string of {} bytes; at most {} are allowed",
                                                 text.size(), kMaxStopBytes)));
  }
  out = std::move(stops);
}

void read_logit_bias(Fields& fields, int vocabulary, std::vector<std::pair<std::int32_t, float>>& out) {
  const Json* bias = fields.read_object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    std::int32_t id = -1;
    const auto [end, failed] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (failed != std::errc{} || end != key.data() + key.size() || id < 0 || id >= vocabulary)
      return fields.fail(
          bad("logit_bias",
              fmt::format("'logit_bias' has a key that is no token id of this model (0 to {})", vocabulary - 1)));
    if (!value.is_number() || value.get<double>() < -100 || value.get<double>() > 100)
      return fields.fail(
          bad("logit_bias", fmt::format("'logit_bias' of token {} should be a number from -100 to 100", id)));
    out.emplace_back(id, value.get<float>());
  }
}

// "speculation": a name, or false for "off". "prediction": as OpenAI has it, text that
// much of the answer may repeat.
void read_speculation(Fields& fields, engine::Speculating& out) {
  if (const Json* by = fields.find("speculation"); by != nullptr && *by == Json(false)) {
    out.by = engine::Speculation::off;
  } else if (by != nullptr) {
    std::string name;
    fields.read("speculation", name);
    out.by = engine::speculation_of(name);
    if (!out.by) return fields.fail(bad("speculation", R"('speculation' should be "off", "ngram", "draft" or "auto")"));
  }
  fields.read("speculative_tokens", out.most, {0, kNoLimit});
  const Json* prediction = fields.read_object("prediction");
  if (prediction == nullptr) return;
  const auto member = [](const Json& object, const char* name) {
    const auto found = object.is_object() ? object.find(name) : object.end();
    return found == object.end() ? Json() : *found;
  };
  const auto wrong = [&] {
    fields.fail(bad(
        "prediction",
        R"('prediction' should be {"type": "content", "content": text}, the text a string or parts of type 'text')"));
  };
  const Json content = member(*prediction, "content");
  if (member(*prediction, "type") != "content" || !(content.is_string() || content.is_array())) return wrong();
  if (content.is_string()) out.prediction = content.get<std::string>();
  if (content.is_array())
    for (const Json& part : content) {
      const Json text = member(part, "text");
      if (member(part, "type") != "text" || !text.is_string()) return wrong();
      out.prediction += text.get_ref<const std::string&>();
    }
}

// Known members whose absence from the answer would be a silent lie.
void refuse_what_is_not_served(Fields& fields) {
  for (const char* name : {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
                           "grammar", "use_beam_search", "bad_words", "truncate_prompt_tokens", "logits_processors",
                           "kv_transfer_params", "repetition_detection"})
    fields.refuse(name);
  const Json* format = fields.read_object("response_format");
  if (format == nullptr) return;
  const auto type = format->find("type");
  if (type == format->end() || !type->is_string())
    return fields.fail(bad("response_format", "'response_format' should have a 'type'"));
  if (*type != "text")
    fields.fail(not_yet("response_format", fmt::format("'response_format' of type '{}'", type->get<std::string>())));
}

}  // namespace

Outcome<engine::ModelCard> find_model(const Call& call, const engine::Generator& generator, Fields& fields) {
  std::string name;
  fields.read("model", name, 1024);
  TRY(fields.done());
  if (name.empty()) {
    auto models = generator.models();
    if (std::ranges::count(models, std::string(), &engine::ModelCard::parent) == 1) {
      TRY(call.check_model(models.front()));
      return std::move(models.front());
    }
    return bad("model", "name the 'model': GET /v1/models lists those served");
  }
  auto found = generator.card(name);
  if (!found)
    return Fault(
        {Code::not_found, fmt::format("the model '{}' does not exist; GET /v1/models lists those served", name)},
        "model", "model_not_found");
  TRY(call.check_model(*found));
  return std::move(*found);
}

Outcome<std::vector<TextInput>> read_texts(Fields& fields, const std::string& name, int vocabulary, std::size_t most) {
  const Json* texts = fields.find(name);
  if (texts == nullptr) return bad(name, fmt::format("'{}' is missing: send a string, or token ids", name));
  std::vector<TextInput> out;
  if (texts->is_string()) {
    out.emplace_back(texts->get<std::string>());
    return out;
  }
  if (!texts->is_array())
    return bad(name, fmt::format("'{}' should be a string or an array, not {}", name, kind(*texts)));
  if (texts->empty()) return bad(name, fmt::format("'{}' is empty", name));
  if (texts->front().is_number()) {
    out.emplace_back(TRY(read_token_ids(*texts, name, vocabulary)));
    return out;
  }
  if (texts->size() > most)
    return bad(name, fmt::format("'{}' has {} texts; at most {} are allowed", name, texts->size(), most));
  for (const Json& item : *texts) {
    if (item.is_string() && texts->front().is_string())
      out.emplace_back(item.get<std::string>());
    else if (item.is_array() && texts->front().is_array())
      out.emplace_back(TRY(read_token_ids(item, name, vocabulary)));
    else
      return bad(name, fmt::format("'{}' should hold strings, token ids, or arrays of token ids, not {} among them",
                                   name, kind(item)));
  }
  for (const TextInput& input : out)
    if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&input); ids != nullptr && ids->empty())
      return bad(name, fmt::format("'{}' holds an empty array of token ids", name));
  return out;
}

int id_limit(const engine::ModelCard& model) {
  return model.foreign && model.vocabulary == 0 ? std::numeric_limits<int>::max() : model.vocabulary;
}

void read_generation(const Call& call, Fields& fields, const engine::ModelCard& model, engine::Request& request) {
  auto& sampling = request.sampling;
  sampling = model.sampling;
  fields.read("temperature", sampling.temperature, {0, 2});
  fields.read("top_p", sampling.top_p, {0, 1});
  fields.read("top_k", sampling.top_k, {-1, kNoLimit});
  if (sampling.top_p == 0) sampling.top_p = 1, sampling.top_k = 1;  // OpenAI's least: the likeliest token alone
  fields.read("min_p", sampling.min_p, {0, 1});
  fields.read("typical_p", sampling.typical_p, {0, 1, true});
  fields.read("repetition_penalty", sampling.repetition_penalty, {0, 100, true});
  fields.read("presence_penalty", sampling.presence_penalty, {-2, 2});
  fields.read("frequency_penalty", sampling.frequency_penalty, {-2, 2});
  read_logit_bias(fields, id_limit(model), sampling.logit_bias);
  fields.read_ids("allowed_token_ids", sampling.allowed_token_ids, id_limit(model));
  if (fields.has("seed")) {
    std::int64_t seed = 0;
    fields.read("seed", seed);
    sampling.seed = static_cast<std::uint64_t>(seed);
  }

  auto& stopping = request.stopping;
  fields.read("min_tokens", stopping.min_tokens, {0, kNoLimit});
  read_stops(fields, stopping.stop);
  fields.read_ids("stop_token_ids", stopping.stop_token_ids, id_limit(model));
  fields.read("ignore_eos", stopping.ignore_eos);
  fields.read("include_stop_str_in_output", stopping.include_stop_in_output);

  if (!model.foreign) read_speculation(fields, request.speculating);
  fields.read("n", request.n, {1, 128});
  fields.read("prompt_logprobs", request.prompt_logprobs, {0, 20});
  fields.read("skip_special_tokens", request.skip_special_tokens);
  fields.read("priority", request.priority);
  if (call.who != nullptr) request.priority = call.who->priority(request.priority);
  fields.read("cache_salt", request.cache_salt, 1024);
  fields.read("keep_alive", request.keep_alive);
  request.model = model.id;
  if (!model.foreign) refuse_what_is_not_served(fields);
}

// Every one of every line: what is left out here is guarded nowhere.
std::vector<std::string> declared_classes(const net::Headers& headers) {
  std::vector<std::string> out;
  for (const auto& [name, value] : headers) {
    if (name != "x-ashlar-data-class") continue;
    for (std::string_view rest = value; !rest.empty();)
      if (const auto item = net::take_item(rest); !item.empty()) out.push_back(net::lower(item));
  }
  return out;
}

engine::Sender sender_of(const Call& call, const engine::ModelCard* model) {
  const net::Headers& headers = call.request().headers;
  engine::Sender sender;
  if (call.who != nullptr) {
    sender.key = call.who->key_id;
    sender.user = call.who->user;
    sender.team = call.who->team;
    sender.tags = call.who->tags;
  }
  const auto said = [&](std::string_view name) {
    return std::string(net::find_header(headers, name).substr(0, kMaxHint));
  };
  sender.session = said("x-session-id");
  sender.cache_control = said("cache-control");
  sender.data_classes = declared_classes(headers);
  if (call.id_is_given) sender.request_id = call.request_id;
  if (model != nullptr) sender.counted_as = model->alias_of;
  return sender;
}

// Beside what the route asks of everybody; without identities, anybody may.
bool may_also(const Call& call, Scope scope) {
  return call.who == nullptr || call.shared.identity == nullptr ||
         call.shared.identity->decide(*call.who, call.action(scope)).allowed;
}

// Only who may see what happened here is told where requests go.
bool explains(const Call& call) {
  return net::find_header(call.request().headers, "x-ashlar-explain") == "true" && may_also(call, Scope::audit);
}

// Of who routes by what is cached here: it names other tenants' prompts, so only an operator's counts.
std::optional<std::uint64_t> prefix_salt_of(const Call& call) {
  const std::string_view text = net::find_header(call.request().headers, "x-ashlar-prefix-salt");
  std::uint64_t salt = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), salt, 16);
  if (text.empty() || failed != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  if (!may_also(call, Scope::operate)) return std::nullopt;
  return salt;
}

void sign(const Call& call, const engine::ModelCard& model, engine::Request& request) {
  request.tenant = call.tenant;
  request.prefix_salt = prefix_salt_of(call);
  request.sender = sender_of(call, &model);
  request.sender.explain = explains(call);
}

void cap_output(const Call& call, Fields& fields, engine::Stopping& stopping) {
  const int cap = call.who != nullptr ? call.who->output_cap : 0;
  if (cap == 0) return;
  if (stopping.min_tokens > cap)
    fields.fail(
        bad("min_tokens", fmt::format("'min_tokens' is greater than {}, the most that this key may have", cap)));
  if (stopping.max_tokens < 0 || stopping.max_tokens > cap) stopping.max_tokens = cap;
}

Reply read_reply(Fields& fields, const engine::ModelCard& model, std::string_view prefix) {
  Reply reply{.model = model.id, .created = unix_seconds()};
  std::string name;
  fields.read("request_id", name, 128);
  reply.id = std::string(prefix) + (name.empty() ? random_hex(24) : name);
  fields.read("stream", reply.stream);
  fields.read("return_token_ids", reply.token_ids);
  fields.read("return_tokens_as_token_ids", reply.tokens_as_ids);
  if (const Json* options = fields.read_object("stream_options")) {
    if (!reply.stream)
      fields.fail(bad("stream_options", "'stream_options' is only for requests with \"stream\": true"));
    Fields inner(*options);
    inner.read("include_usage", reply.include_usage);
    inner.read("continuous_usage_stats", reply.continuous_usage);
    if (auto read = inner.done(); !read) {
      Fault fault = std::move(read).error();
      fault.param = "stream_options." + fault.param;
      fields.fail(std::move(fault));
    }
    reply.continuous_usage = reply.continuous_usage && reply.include_usage;
  }
  return reply;
}

void with_prompt_ids(const std::shared_ptr<net::Exchange>& exchange, const engine::Generator& generator, bool wanted,
                     Requests requests, std::function<void(PromptIds, Requests)> then) {
  if (!wanted || requests.empty()) return then({}, std::move(requests));
  const std::string model = requests.front().model;
  const auto held = std::make_shared<Requests>(std::move(requests));
  generator.when_ready(model,
                       [exchange, model, held, then = std::move(then)](const Result<const engine::Generator*>& ready) {
                         if (!ready) return respond_fault(*exchange, Fault(ready.error()));
                         PromptIds ids;
                         for (const engine::Request& request : *held) {
                           auto tokenized = (*ready)->tokenize(model, request.prompt, true);
                           if (!tokenized) return respond_fault(*exchange, Fault(tokenized.error()));
                           ids.push_back(std::move(tokenized->ids));
                         }
                         then(std::move(ids), std::move(*held));
                       });
}

std::string random_hex(int digits) {
  thread_local std::mt19937_64 random{[] {
    std::random_device device;
    return (static_cast<std::uint64_t>(device()) << 32) ^ device();
  }()};
  std::string out(static_cast<std::size_t>(digits), '0');
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < out.size(); ++i, bits >>= 4) {
    if (i % 16 == 0) bits = random();
    out[i] = "0123456789abcdef"[bits & 15];
  }
  return out;
}

std::int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace ashlar::api
