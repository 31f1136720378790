#include "engine/generator_set.h"

#include <fmt/format.h>

#include <algorithm>

namespace ashlar::engine {

Result<std::unique_ptr<GeneratorSet>> GeneratorSet::create(std::vector<std::shared_ptr<Generator>> generators) {
  if (generators.empty()) return Error{Code::invalid, "there is no model to serve"};
  auto set = std::unique_ptr<GeneratorSet>(new GeneratorSet);
  for (const auto& generator : generators)
    for (const ModelCard& card : generator->models())
      if (!set->by_name_.emplace(card.id, generator.get()).second)
        return Error{Code::invalid, fmt::format("two models are to be served as '{}'", card.id)};
  set->generators_ = std::move(generators);
  return set;
}

Result<Generator*> GeneratorSet::find(const std::string& model) const {
  if (model.empty()) return generators_.front().get();
  if (const auto found = by_name_.find(model); found != by_name_.end()) return found->second;
  // Adapters come and go.
  std::string served;
  for (const auto& generator : generators_)
    for (const ModelCard& card : generator->models())
      if (card.id == model || (!card.parent.empty() && card.parent + ":" + card.id == model)) return generator.get();
  for (const ModelCard& card : models()) served.append(served.empty() ? "" : ", ").append(card.id);
  return Error{Code::not_found, fmt::format("there is no model '{}' here, but {}", model, served)};
}

std::expected<std::unique_ptr<Ticket>, Generator::Refusal> GeneratorSet::start(Request request, Sink& sink) {
  const Result<Generator*> generator = find(request.model);
  if (!generator) return std::unexpected(Refusal{.error = generator.error()});
  return (*generator)->start(std::move(request), sink);
}

std::vector<ModelCard> GeneratorSet::models() const {
  std::vector<ModelCard> cards;
  for (const auto& generator : generators_)
    for (ModelCard& card : generator->models()) cards.push_back(std::move(card));
  return cards;
}

void GeneratorSet::load_adapter(AdapterOrder order, std::function<void(Status)> done) {
  const Result<Generator*> owner = find(order.model);
  if (!owner) return done(owner.error());
  for (const auto& generator : generators_)
    for (const ModelCard& card : generator->models())
      if (card.id == order.name && (generator.get() != *owner || card.parent.empty()))
        return done(
            Error{Code::invalid, fmt::format("'{}' is served already; the adapter needs another name", card.id)});
  (*owner)->load_adapter(std::move(order), std::move(done));
}

Status GeneratorSet::unload_adapter(const std::string& name) { return TRY(find(name))->unload_adapter(name); }

Result<Tokenized> GeneratorSet::tokenize(const std::string& model, const Prompt& prompt, bool parse_special) const {
  return TRY(find(model))->tokenize(model, prompt, parse_special);
}

Result<std::string> GeneratorSet::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  return TRY(find(model))->detokenize(model, ids);
}

Result<std::string> GeneratorSet::render(const std::string& model, const Chat& chat) const {
  return TRY(find(model))->render(model, chat);
}

Generator::Load GeneratorSet::load() const {
  Load sum;
  for (const auto& generator : generators_) {
    const Load one = generator->load();
    sum.running += one.running;
    sum.waiting += one.waiting;
    sum.kv_used = std::max(sum.kv_used, one.kv_used);
    sum.prefill_tokens_per_second += one.prefill_tokens_per_second;
    sum.decode_tokens_per_second += one.decode_tokens_per_second;
    sum.healthy = sum.healthy && one.healthy;
  }
  return sum;
}

}  // namespace ashlar::engine
