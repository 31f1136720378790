// Usage rows as text, for export.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <ctime>

#include "base/json_full.h"
#include "store/usage.h"

namespace ashlar::store {
namespace {

constexpr std::int64_t kNano = 1'000'000'000;

Json tags_json(const UsageRow& row) {
  Json tags = Json::object();
  for (const auto& [name, value] : row.tags) tags[name] = value;
  return tags;
}

// A spreadsheet computes what begins so, quoted or not: =cmd|..., @SUM(...). An apostrophe before it makes it a text.
bool is_formula(std::string_view text) {
  return !text.empty() && std::string_view("=+-@\t\r\n").find(text.front()) != std::string_view::npos;
}

}  // namespace

std::string csv_text(std::string_view text) {
  std::string out = is_formula(text) ? "\"'" : "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string usage_csv_header() {
  return "id,time,tenant,team,user,key,model,deployment,tags,prompt_tokens,cached_tokens,completion_tokens,reasoning_"
         "tokens,"
         "cost_nano_usd,status,ttft_ms,duration_ms,cache_write_tokens,request_id\n";
}

std::string usage_csv(const UsageRow& row) {
  std::string line = csv_text(row.id) + ',' + utc_text_of_ms(row.at_ms);
  for (const std::string* each : {&row.tenant, &row.team, &row.user, &row.key, &row.model, &row.deployment})
    line += ',' + csv_text(*each);
  line += ',' + csv_text(dump_json(tags_json(row)));
  return line + fmt::format(",{},{},{},{},{},{},{},{},{},{}\n", row.prompt_tokens, row.cached_tokens,
                            row.completion_tokens, row.reasoning_tokens, row.cost_nano, row.status,
                            row.ttft_ms ? fmt::format("{}", *row.ttft_ms) : "", row.duration_ms, row.cache_write_tokens,
                            csv_text(row.request_id));
}

std::string usage_json(const UsageRow& row) {
  return dump_json(Json{{"id", row.id},
                        {"time", utc_text_of_ms(row.at_ms)},
                        {"tenant", row.tenant},
                        {"team", row.team},
                        {"user", row.user},
                        {"key", row.key},
                        {"model", row.model},
                        {"deployment", row.deployment},
                        {"tags", tags_json(row)},
                        {"prompt_tokens", row.prompt_tokens},
                        {"cached_tokens", row.cached_tokens},
                        {"cache_write_tokens", row.cache_write_tokens},
                        {"completion_tokens", row.completion_tokens},
                        {"reasoning_tokens", row.reasoning_tokens},
                        {"cost_nano_usd", row.cost_nano},
                        {"status", row.status},
                        {"ttft_ms", row.ttft_ms ? Json(*row.ttft_ms) : Json()},
                        {"duration_ms", row.duration_ms},
                        {"request_id", row.request_id}}) +
         "\n";
}

std::string utc_text_of_ms(std::int64_t ms) {
  std::int64_t whole = ms / 1000, rest = ms % 1000;
  if (rest < 0) rest += 1000, --whole;
  const auto seconds = static_cast<std::time_t>(whole);
  std::tm utc{};
  if (::gmtime_r(&seconds, &utc) == nullptr) return fmt::format("{} ms", ms);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900LL, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, rest);
}

std::string dollars(std::int64_t nano) {
  const auto size = nano < 0 ? ~static_cast<std::uint64_t>(nano) + 1 : static_cast<std::uint64_t>(nano);
  std::string text = fmt::format("{}{}.{:09}", nano < 0 ? "-" : "", size / kNano, size % kNano);
  while (text.ends_with('0') && text[text.size() - 3] != '.') text.pop_back();
  return text;
}

}  // namespace ashlar::store
