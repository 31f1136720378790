#include "api/dialect.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/json_full.h"
#include "base/utf8.h"

namespace ashlar::api {

std::string usage_json(const engine::Usage& usage) {
  std::string written =
      usage.written_tokens > 0 ? fmt::format(R"(,"cache_write_tokens":{})", usage.written_tokens) : std::string();
  if (usage.hour_tokens > 0)
    written += fmt::format(R"(,"cache_creation_token_details":{{"ephemeral_1h_input_tokens":{}}})", usage.hour_tokens);
  return fmt::format(
      FMT_COMPILE(
          R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{},"audio_tokens":0{}}},)"
          R"("completion_tokens_details":{{"reasoning_tokens":{},"audio_tokens":0,"accepted_prediction_tokens":{},"rejected_prediction_tokens":{}}}{}}})"),
      usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens, usage.cached_tokens,
      written, usage.reasoning_tokens, usage.accepted_tokens, usage.rejected_tokens,
      usage.estimated ? R"(,"estimated":true)" : "");
}

void put_beside(Json& kept, const Json& more) {
  constexpr std::string_view kSeverities[] = {"safe", "low", "medium", "high"};
  constexpr std::size_t kMostListed = 1024;
  const auto severity = [&](const Json& word) {
    return std::ranges::find(kSeverities, word.get_ref<const std::string&>()) - std::begin(kSeverities);
  };
  if (kept.is_object() && more.is_object()) {
    for (const auto& [name, value] : more.items()) put_beside(kept[name], value);
  } else if (kept.is_array() && more.is_array()) {
    for (const Json& each : more)
      if (kept.size() < kMostListed && std::ranges::find(kept, each) == kept.end()) kept.push_back(each);
  } else if (kept.is_boolean() && more.is_boolean()) {
    kept = kept.get<bool>() || more.get<bool>();
  } else if (!kept.is_string() || !more.is_string() || severity(kept) < severity(more)) {
    kept = more;
  }
}

void append_members(std::string& out, const Json* object) {
  if (object == nullptr) return;
  for (const auto& [name, value] : object->items()) {
    append_json_string(out.append(","), name);
    out.append(":").append(dump_json(value));
  }
}

void append_logprob(std::string& out, float logprob) {
  fmt::format_to(std::back_inserter(out), "{}", std::isfinite(logprob) ? logprob : -9999.0f);
}

void append_token(std::string& out, std::int32_t id, std::string_view bytes, bool as_id) {
  if (as_id) {
    fmt::format_to(std::back_inserter(out), R"("token_id:{}")", id);
  } else if (utf8::is_valid(bytes)) {
    append_json_string(out, bytes);
  } else {
    out.append("\"bytes:");
    for (const char c : bytes) fmt::format_to(std::back_inserter(out), R"(\\x{:02x})", static_cast<unsigned char>(c));
    out.push_back('"');
  }
}

void append_ids(std::string& out, std::span<const std::int32_t> ids) {
  fmt::format_to(std::back_inserter(out), "[{}]", fmt::join(ids, ","));
}

std::string prompt_logprobs_json(std::span<const engine::TokenLogprob> logprobs) {
  std::string out = "[";
  const auto entry = [&](std::int32_t id, float logprob, int rank, std::string_view bytes) {
    fmt::format_to(std::back_inserter(out), R"("{}":{{"logprob":)", id);
    append_logprob(out, logprob);
    if (rank > 0)
      fmt::format_to(std::back_inserter(out), R"(,"rank":{},"decoded_token":)", rank);
    else
      out.append(R"(,"rank":null,"decoded_token":)");
    append_token(out, id, bytes, false);
    out.push_back('}');
  };
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    if (i == 0) {
      out.append("null");
      continue;
    }
    out.append(",{");
    bool listed = false;
    int rank = 0;
    for (const auto& alternative : logprobs[i].top) {
      if (rank++ > 0) out.push_back(',');
      entry(alternative.id, alternative.logprob, rank, alternative.bytes);
      listed = listed || alternative.id == logprobs[i].id;
    }
    if (!listed) {
      if (rank > 0) out.push_back(',');
      entry(logprobs[i].id, logprobs[i].logprob, 0, logprobs[i].bytes);
    }
    out.push_back('}');
  }
  out.push_back(']');
  return out;
}

}  // namespace ashlar::api
