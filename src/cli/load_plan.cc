#include "cli/load_plan.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/json_full.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

constexpr std::size_t kMaxTrace = 1 << 30;
constexpr int kBlockTokens = 512;
constexpr int kMaxTokens = 10'000'000;

Error bad_line(const std::string& path, int line, std::string_view what) {
  return {Code::corrupt, fmt::format("{}:{}: {}", path, line, what)};
}

bool parse_int(std::string_view text, int& out) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), out);
  return failed == std::errc{} && end == text.data() + text.size() && out >= 0 && out <= kMaxTokens;
}

// "2023-11-16 18:17:03.9799600" to seconds since the epoch's day, times within a month being enough.
bool parse_timestamp(const std::string& text, double& seconds) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0;
  double second = 0;
  if (std::sscanf(text.c_str(), "%d-%d-%d%*[ T]%d:%d:%lf", &year, &month, &day, &hour, &minute, &second) != 6) return false;
  std::tm date{.tm_mday = day, .tm_mon = month - 1, .tm_year = year - 1900};
  seconds = static_cast<double>(timegm(&date)) + hour * 3600.0 + minute * 60.0 + second;
  return true;
}

Result<PlannedRequest> csv_request(const std::string& path, int number, std::string_view line) {
  const auto first = line.find(','), second = line.find(',', first == line.npos ? first : first + 1);
  PlannedRequest request;
  if (second == line.npos || !parse_timestamp(std::string(line.substr(0, first)), request.at_seconds) ||
      !parse_int(line.substr(first + 1, second - first - 1), request.prompt_tokens) || !parse_int(line.substr(second + 1), request.answer_tokens))
    return bad_line(path, number, "expected TIMESTAMP,ContextTokens,GeneratedTokens");
  return request;
}

Result<PlannedRequest> json_request(const std::string& path, int number, std::string_view line) {
  const auto json = parse_json(line);
  if (!json) return bad_line(path, number, json.error().message);
  const auto whole = [&](const char* key) -> std::int64_t {
    const auto at = json->is_object() ? json->find(key) : json->end();
    return json->is_object() && at != json->end() && at->is_number_integer() ? at->get<std::int64_t>() : -1;
  };
  const auto at = whole("timestamp"), input = whole("input_length"), output = whole("output_length");
  if (at < 0 || input < 0 || input > kMaxTokens || output < 0 || output > kMaxTokens)
    return bad_line(path, number, "expected an object with timestamp, input_length and output_length");
  PlannedRequest request{static_cast<double>(at) / 1000, static_cast<int>(input), static_cast<int>(output), {}};
  if (const auto ids = json->find("hash_ids"); ids != json->end() && ids->is_array())
    for (const auto& id : *ids) {
      if (!id.is_number_integer()) return bad_line(path, number, "hash_ids: expected whole numbers");
      request.prefix_blocks.push_back(id.get<std::int64_t>());
    }
  return request;
}

// Common short words are one token each in most vocabularies.
constexpr std::string_view kWords[] = {"the", "of", "and", "to", "in", "that", "was", "his", "he", "it", "with", "is", "for", "as", "had", "you",
                                       "not", "be", "her", "on", "at", "by", "which", "have", "or", "from", "this", "him", "but", "all", "she", "they"};

void append_words(std::string& out, std::uint64_t seed, int count) {
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (int i = 0; i < count; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;  // xorshift64
    if (!out.empty()) out.push_back(' ');
    out.append(kWords[state % std::size(kWords)]);
  }
}

}  // namespace

Result<std::vector<PlannedRequest>> read_trace(const std::string& path, std::size_t limit) {
  const std::string text = TRY(read_file(path, kMaxTrace));
  std::vector<PlannedRequest> plan;
  const bool json = text.starts_with('{');
  int number = 0;
  for (std::size_t at = 0; at < text.size() && (limit == 0 || plan.size() < limit);) {
    const auto end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (!json && number == 1 && line.starts_with("TIMESTAMP"))) continue;
    plan.push_back(json ? TRY(json_request(path, number, line)) : TRY(csv_request(path, number, line)));
  }
  if (plan.empty()) return Error{Code::corrupt, fmt::format("{}: no requests in it", path)};
  const double first = plan.front().at_seconds;
  for (auto& request : plan) request.at_seconds = std::max(0.0, request.at_seconds - first);
  return plan;
}

std::string prompt_text(const PlannedRequest& request, std::uint64_t number) {
  std::string out;
  int left = request.prompt_tokens;
  // A last block that is not full belongs to this request alone.
  for (const std::int64_t block : request.prefix_blocks) {
    if (left < kBlockTokens) break;
    append_words(out, static_cast<std::uint64_t>(block) + (1ull << 40), kBlockTokens);
    left -= kBlockTokens;
  }
  if (left > 0) append_words(out, number, left);
  return out;
}

}  // namespace ashlar::cli
