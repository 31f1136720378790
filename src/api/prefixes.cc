// GET /v1/cache/prefixes/MODEL?book=HEX&since=N: what the model's prefix cache has, or what changed since then, for a
// router before us. It keeps no state for those who ask: whoever is slow, or comes back, gets the whole.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "api/routes.h"
#include "base/json.h"
#include "engine/prefixes.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMost = 1 << 16;  // keys in one answer

// 0 where it does not stand, or is no number.
std::uint64_t number_in(std::string_view query, std::string_view name, int base) {
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    if (!pair.starts_with(name) || pair.substr(name.size(), 1) != "=") continue;
    const std::string_view text = pair.substr(name.size() + 1);
    std::uint64_t value = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    return failed == std::errc{} && end == text.data() + text.size() ? value : 0;
  }
  return 0;
}

}  // namespace

Outcome<void> show_prefixes(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const auto card = generator.card(call.rest);
  if (!card || !call.may_use(*card))
    return Fault({Code::not_found, fmt::format("the model '{}' does not exist", call.rest)}, "model",
                 "model_not_found");
  const auto cache = generator.cached_prefixes(card->id);
  if (cache == nullptr)
    return Fault(
        {Code::unsupported, fmt::format("'{}' is a route, or another server's: ask who has the model", card->id)},
        "model");
  const std::string& query = call.request().query;
  const auto news = cache->news(number_in(query, "book", 16), number_in(query, "since", 10), kMost);
  std::string keys, tokens;
  for (const auto& change : news.changes) {
    fmt::format_to(std::back_inserter(keys), "{:016x}", change.key);
    fmt::format_to(std::back_inserter(tokens), "{}{}", tokens.empty() ? "" : ",", change.tokens);
  }
  std::string name;
  append_json_string(name, card->id);
  call.respond_json(
      fmt::format(R"({{"model":{},"book":"{:016x}","sequence":{},"whole":{},"cut":{},"keys":"{}","tokens":[{}]}})",
                  name, news.book, news.sequence, news.whole, news.cut, keys, tokens));
  return {};
}

}  // namespace ashlar::api
