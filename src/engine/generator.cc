#include "engine/generator.h"

#include <future>

namespace ashlar::engine {

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::tool_calls:
      return "tool_calls";
    case FinishReason::function_call:
      return "function_call";
    case FinishReason::content_filter:
      return "content_filter";
    case FinishReason::abort:
      return "abort";
  }
  return "stop";
}

std::string_view name(Dropped why) {
  switch (why) {
    case Dropped::no:
      return "";
    case Dropped::saturated:
      return "rejected-saturated";
    case Dropped::expired:
      return "rejected-ttl-expired";
    case Dropped::outranked:
      return "evicted-priority";
  }
  return "";
}

std::optional<Speculation> speculation_of(std::string_view name) {
  constexpr std::pair<std::string_view, Speculation> kNames[] = {{"off", Speculation::off},
                                                                 {"ngram", Speculation::ngram},
                                                                 {"draft", Speculation::draft},
                                                                 {"auto", Speculation::automatic}};
  for (const auto& [known, speculation] : kNames)
    if (known == name) return speculation;
  return std::nullopt;
}

std::optional<ModelCard> Generator::card(const std::string& model) const {
  for (ModelCard& card : models())
    if (card.id == model || (!card.parent.empty() && card.parent + ":" + card.id == model)) return std::move(card);
  return std::nullopt;
}

Status add_adapter(Generator& generator, AdapterOrder order) {
  const auto promise = std::make_shared<std::promise<Status>>();
  auto loaded = promise->get_future();
  generator.load_adapter(std::move(order), [promise](Status status) { promise->set_value(std::move(status)); });
  return loaded.get();
}

}  // namespace ashlar::engine
