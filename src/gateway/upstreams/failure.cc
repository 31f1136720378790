#include "gateway/upstreams/failure.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/json_full.h"
#include "base/utf8.h"
#include "net/http_text.h"

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;
constexpr std::size_t kMaxMessage = 600;  // bytes of an upstream's words that are told on
constexpr milliseconds kMaxWait{3'600'000};

// What an error says, wherever it stands in it.
struct Said {
  std::string message, type, code, param;
};

std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return std::to_string(value.get<std::int64_t>());
  return {};
}

const Json* member(const Json& object, std::string_view name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

void take(std::string& out, const Json& object, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names)
    if (const Json* found = member(object, name); out.empty() && found != nullptr) out = text_of(*found);
}

// FastAPI: [{"loc": ["body", "n"], "msg": "...", "type": "..."}].
std::string details_of(const Json& details) {
  std::string out;
  for (const Json& each : details) {
    std::string where, what;
    if (const Json* loc = member(each, "loc"); loc != nullptr && loc->is_array())
      for (const Json& step : *loc) where += (where.empty() ? "" : ".") + text_of(step);
    take(what, each, {"msg", "message"});
    if (out.size() > kMaxMessage) break;
    if (!what.empty()) out += fmt::format("{}{}{}{}", out.empty() ? "" : "; ", where, where.empty() ? "" : ": ", what);
  }
  return out;
}

Said read_said(const Json& value, int depth = 0) {
  Said said;
  if (depth > 3) return said;
  if (value.is_string()) return {.message = value.get<std::string>()};
  if (value.is_array()) return value.empty() ? said : read_said(value.front(), depth + 1);
  if (!value.is_object()) return said;
  for (const std::string_view name : {"error", "errors", "Error"})
    if (const Json* inner = member(value, name); inner != nullptr && (inner->is_object() || inner->is_array()))
      said = read_said(*inner, depth + 1);
  take(said.message, value, {"message", "Message", "error", "detail", "error_message", "msg", "errorMessage"});
  if (const Json* details = member(value, "detail"); said.message.empty() && details != nullptr) {
    if (details->is_array()) said.message = details_of(*details);
    if (details->is_object()) said = read_said(*details, depth + 1);
  }
  take(said.type, value, {"type", "error_type", "__type", "status"});
  take(said.code, value, {"code", "Code", "error_code"});
  take(said.param, value, {"param"});
  return said;
}

// One line that may be shown: whole characters, no control characters, not too long.
std::string plain(std::string text) {
  text = utf8::sanitize(text);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  if (text.size() > kMaxMessage) {
    text.resize(utf8::complete_prefix(std::string_view(text).substr(0, kMaxMessage)));
    text += "...";
  }
  return text;
}

bool has(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::ranges::any_of(words, [&](std::string_view word) { return text.find(word) != text.npos; });
}

bool is_over_context(const Said& said) {
  if (said.code == "context_length_exceeded" || said.type == "exceed_context_size_error") return true;
  const std::string text = net::lower(said.message);
  return has(text, {"maximum context length",
                    "context length of",
                    "context window",
                    "context size",
                    "exceeds the context",
                    "max_model_len",
                    "prompt is too long",
                    "input is too long",
                    "prompt too long",
                    "too many input tokens",
                    "exceeds the limit of",
                    "range of input length",
                    "model's context length",  // SGLang
                    "`inputs` must have less than",
                    "`inputs` tokens + `max_new",  // TGI
                    "max_seq_len",
                    "should not exceed max_num_tokens",  // TensorRT-LLM
                    "exceed context limit",              // Anthropic: with max_tokens
                    "maximum number of tokens allowed",  // Gemini
                    "maximum prompt length",
                    "exceeded model token limit"});  // xAI, Moonshot
}

bool is_filtered(const Said& said) {
  const std::string text = net::lower(said.code + " " + said.type);
  return has(text, {"content_filter", "content_policy", "responsibleai", "datainspection", "data_inspection"}) ||
         has(net::lower(said.message), {"content filtering policy", "content exists risk"});  // Anthropic, DeepSeek
}

bool is_quota(const Said& said) {
  const std::string text = net::lower(said.code + " " + said.type);
  return has(text, {"insufficient_quota", "billing", "arrearage", "budget_exceeded", "quota_exceeded", "current_quota",
                    "freetieronly"}) ||
         has(net::lower(said.message), {"credit balance is too low"});  // Anthropic's, of type invalid_request_error
}

std::optional<milliseconds> seconds_of(std::string_view text, double scale) {
  double value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc{} || end != text.data() + text.size() || !(value >= 0)) return std::nullopt;
  return milliseconds(static_cast<std::int64_t>(std::min(value * scale, 3.6e6)));
}

// RFC 9110, 10.2.3: seconds or a date; Azure's and OpenAI's in milliseconds is finer.
milliseconds retry_after(const net::Headers& headers) {
  if (const auto fine = seconds_of(net::find_header(headers, "retry-after-ms"), 1)) return *fine;
  const auto text = net::find_header(headers, "retry-after");
  if (const auto seconds = seconds_of(text, 1000)) return *seconds;
  const auto wait = net::parse_retry_after(text, std::chrono::system_clock::now());
  return std::min(wait.value_or(milliseconds(0)), kMaxWait);
}

bool is_worth_another(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504 ||
         status == 529;
}

// The word for an error of Anthropic's and AWS's streams, whose events have no status.
int status_of_type(const Said& said) {
  const std::string text = net::lower(said.type + " " + said.code);
  if (has(text, {"overloaded", "unavailable", "server_is_overloaded"})) return 503;
  if (has(text, {"rate_limit", "throttl", "too_many"})) return 429;
  if (has(text, {"timeout"})) return 504;
  if (has(text, {"invalid_request", "badrequest", "validation"}) || is_filtered(said)) return 400;
  int code = 0;
  const auto [end, failed] = std::from_chars(said.code.data(), said.code.data() + said.code.size(), code);
  if (failed == std::errc{} && end == said.code.data() + said.code.size() && code >= 400 && code < 600) return code;
  return 502;
}

engine::Failed failed(Code code, int status, std::string_view reason, std::string message) {
  return {.error = {code, std::move(message)}, .status = status, .reason = std::string(reason)};
}

engine::Failed translate(const std::string& upstream, int status, const Said& said, milliseconds wait) {
  const std::string words =
      said.message.empty() ? fmt::format("{} {}", status, net::reason(status)) : plain(said.message);
  const std::string told = fmt::format("the upstream '{}' says: {}", upstream, words);
  if (status >= 400 && status < 500 && is_over_context(said)) {
    auto out = failed(Code::invalid, 0, "", told);
    out.over_context = true;
    return out;
  }
  if (status >= 400 && status < 500 && is_filtered(said))
    return failed(Code::invalid, 0, "content_policy_violation", told);
  if (status == 402 || (status >= 400 && status < 500 && is_quota(said))) {
    auto out = failed(Code::unavailable, 503, "upstream_quota",
                      fmt::format("the upstream '{}' refuses: the account behind it is used up", upstream));
    out.retry_after = wait;
    return out;
  }
  engine::Failed out;
  switch (status) {
    case 401:
    case 403:
    case 407:
      return failed(Code::unavailable, 502, "upstream_refuses_us",
                    fmt::format("the upstream '{}' refuses the key that we show it ({})", upstream, status));
    case 404:
      return said.message.empty() ? failed(Code::unavailable, 502, "upstream_error", told + "; is its url right?")
                                  : failed(Code::not_found, 0, "model_not_found", told);
    case 408:
    case 504:
      return failed(Code::deadline, 504, "upstream_timeout", told);
    case 413:
      return failed(Code::too_large, 0, "", told);
    case 429:
      out = failed(Code::exhausted, 0, "", told);
      break;
    case 424:  // AWS: the model failed
      return failed(Code::unavailable, 502, "upstream_error", told);
    case 501:
      return failed(Code::unsupported, 0, "", told);
    case 503:
    case 529:
      out = failed(Code::unavailable, 503, "", told);
      break;
    default:
      if (status >= 300 && status < 400)
        return failed(
            Code::unavailable, 502, "upstream_error",
            fmt::format("the upstream '{}' redirects ({}), which is not followed: give its own url", upstream, status));
      if (status >= 400 && status < 500 && status != 405)
        return failed(Code::invalid, status == 400 ? 0 : status, said.message.empty() ? "" : plain(said.code), told);
      return failed(Code::unavailable, 502, "upstream_error", told);
  }
  out.retry_after = wait;
  return out;
}

// What is the request's own fault is told on as it was said, with the member that it is about.
void name_member(engine::Failed& failed, const Said& said) {
  const Code code = failed.error.code;
  const bool told_on =
      code == Code::invalid || code == Code::too_large || code == Code::unsupported || code == Code::not_found;
  if (told_on && said.param != "None") failed.param = plain(said.param);  // LiteLLM's word for null
}

}  // namespace

Failure failure_of_answer(const std::string& upstream, int status, const net::Headers& headers, std::string_view body) {
  Said said;
  if (const auto json = parse_json(body, {.depth = 16, .members = 256, .elements = 256})) said = read_said(*json);
  if (const auto type = net::find_header(headers, "x-amzn-errortype"); said.type.empty() && !type.empty())
    said.type = type.substr(0, type.find(':'));
  // A sentence is told; a page is not.
  const bool sentence =
      !body.empty() && body.size() <= kMaxMessage && body.find('<') == body.npos && body.find('{') == body.npos;
  if (said.message.empty() && sentence && net::find_header(headers, "content-type").starts_with("text/plain"))
    said.message = body;
  Failure out{.failed = translate(upstream, status, said, retry_after(headers)), .retry = is_worth_another(status)};
  name_member(out.failed, said);
  if (out.failed.reason == "upstream_quota") out.retry = false;
  return out;
}

Failure failure_in_stream(const std::string& upstream, const Json& error) {
  const Said said = read_said(error);
  const int status = status_of_type(said);
  Failure out{.failed = translate(upstream, status, said, milliseconds(0)), .retry = is_worth_another(status)};
  name_member(out.failed, said);
  return out;
}

Failure failure_of_call(const std::string& upstream, const Error& error, bool answered) {
  const auto say = [&](std::string_view what) { return fmt::format("the upstream '{}' {}", upstream, what); };
  switch (error.code) {
    case Code::deadline:
      return {.failed = failed(Code::deadline, 504, "upstream_timeout", say("was silent for too long")),
              .retry = !answered};
    case Code::too_large:
      return {.failed = failed(Code::corrupt, 502, "upstream_error", say("sent more than is borne: " + error.message))};
    case Code::corrupt:
      if (answered)
        return {.failed = failed(Code::corrupt, 502, "upstream_error", say("ended in the midst of its answer")),
                .retry = true};
      return {.failed = failed(Code::unavailable, 502, "upstream_error", say("gave no answer: " + error.message)),
              .retry = true};
    case Code::exhausted:
      return {.failed = failed(Code::unavailable, 503, "upstream_unreachable", say("takes no requests now")),
              .unseen = !answered,
              .retry = !answered};
    case Code::forbidden:
      return {.failed =
                  failed(Code::unavailable, 502, "upstream_error", say("may not be connected to: " + error.message))};
    case Code::invalid:
    case Code::cancelled:
      return {.failed = failed(Code::unavailable, 0, "upstream_error", say("cannot be asked now"))};
    default:
      return {.failed = failed(Code::unavailable, 503, "upstream_unreachable", say("cannot be reached")),
              .retry = !answered};
  }
}

Failure nonsense(const std::string& upstream, std::string_view what) {
  return {.failed =
              failed(Code::corrupt, 502, "upstream_error", fmt::format("the upstream '{}' sent {}", upstream, what))};
}

}  // namespace ashlar::gateway
