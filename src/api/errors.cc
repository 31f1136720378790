#include "api/errors.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"

namespace ashlar::api {
namespace {

struct Row {
  Code code;
  int status;
  std::string_view type;
  std::string_view reason;  // OpenAI's `code`; "": null
  bool retry;               // always says Retry-After
};

constexpr Row kRows[] = {
    {Code::invalid, 400, "invalid_request_error", "", false},
    {Code::unsupported, 400, "invalid_request_error", "unsupported", false},
    {Code::unauthorized, 401, "authentication_error", "invalid_api_key", false},
    {Code::forbidden, 403, "permission_error", "", false},
    {Code::not_found, 404, "not_found_error", "", false},
    {Code::deadline, 408, "timeout_error", "", false},
    {Code::too_large, 413, "request_too_large", "", false},
    {Code::exhausted, 429, "rate_limit_error", "rate_limit_exceeded", true},
    {Code::cancelled, 499, "request_cancelled", "", false},
    {Code::corrupt, 500, "server_error", "", false},
    {Code::io, 500, "server_error", "", false},
    {Code::internal, 500, "server_error", "", false},
    {Code::unavailable, 503, "service_unavailable_error", "server_is_overloaded", true},
};

// What no wait ends, but somebody who acts; and after how many seconds it is worth a look.
struct Lasting {
  std::string_view reason;
  int seconds;
};
constexpr Lasting kLasting[] = {{"insufficient_quota", 3600}, {"upstream_quota", 3600}, {"upstream_refuses_us", 60}};

// The clients of OpenAI and Anthropic obey a Retry-After of at most so many seconds: told a longer one they try again
// within one or two, unless they are told not to.
constexpr long long kLongestWait = 60;

const Row& row(Code code) {
  const Row* found = std::ranges::find(kRows, code, &Row::code);
  CHECK(found != std::end(kRows), "every code has a row");
  return *found;
}

void append_or_null(std::string& out, std::string_view text) {
  if (text.empty())
    out.append("null");
  else
    append_json_string(out, text);
}

}  // namespace

Fault fault_of(engine::Failed failure, std::string_view prompt) {
  Fault fault(std::move(failure.error));
  fault.retry_after = failure.retry_after;
  fault.status = failure.status;
  fault.reason = std::move(failure.reason);
  fault.param = std::move(failure.param);
  fault.dropped = failure.dropped;
  if (failure.over_context) {
    fault.reason = "context_length_exceeded";  // clients look for it, to shorten the conversation and try again
    fault.param = prompt;
  }
  return fault;
}

Fault bad(std::string param, std::string message) { return {{Code::invalid, std::move(message)}, std::move(param)}; }

Fault not_yet(std::string param, std::string_view what) {
  return {{Code::unsupported, fmt::format("{} is not supported yet", what)}, std::move(param)};
}

int status_of(const Fault& fault) { return fault.status != 0 ? fault.status : row(fault.error.code).status; }

std::string error_json(const Fault& fault) {
  const Row& said = row(fault.error.code);
  std::string out = R"({"error":{"message":)";
  append_json_string(out, fault.error.message);
  out.append(R"(,"type":)");
  append_json_string(out, fault.reason == "insufficient_quota" ? std::string_view(fault.reason) : said.type);
  out.append(R"(,"param":)");
  append_or_null(out, fault.param);
  out.append(R"(,"code":)");
  append_or_null(out, fault.reason.empty() ? said.reason : std::string_view(fault.reason));
  out.append("}}");
  return out;
}

void respond_fault(net::Exchange& exchange, const Fault& fault, net::Headers headers) {
  headers.emplace_back("content-type", "application/json");
  auto wait = std::chrono::ceil<std::chrono::seconds>(fault.retry_after).count();
  bool in_vain = wait > kLongestWait;
  if (const auto* lasting = std::ranges::find(kLasting, std::string_view(fault.reason), &Lasting::reason);
      wait == 0 && lasting != std::end(kLasting)) {
    wait = lasting->seconds;
    in_vain = true;
  }
  if (wait > 0 || row(fault.error.code).retry)
    headers.emplace_back("retry-after", fmt::format("{}", std::max<long long>(wait, 1)));
  if (in_vain) headers.emplace_back("x-should-retry", "false");
  if (fault.dropped != engine::Dropped::no) headers.emplace_back("x-ashlar-dropped-reason", name(fault.dropped));
  if (fault.error.code == Code::unauthorized) headers.emplace_back("www-authenticate", "Bearer");
  exchange.respond(status_of(fault), std::move(headers), error_json(fault));
}

}  // namespace ashlar::api
