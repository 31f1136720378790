#include "gateway/upstreams/directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace ashlar::gateway {
namespace {

Error nobody(const std::string& model) {
  return {Code::not_found, fmt::format("the model '{}' does not exist; GET /v1/models lists those served", model)};
}

}  // namespace

Directory::Found Directory::find(const std::string& model) const {
  const auto serves = [](const Place& place, std::string_view name) {
    const auto cards = place.generator->models();
    return std::ranges::find(cards, name, &engine::ModelCard::id) != cards.end();
  };
  for (const Place& place : places_)
    if (serves(place, model)) return {&place, model};
  for (const Place& place : places_)
    if (!place.name.empty() && model.starts_with(place.name + "/")) {
      const std::string inner = model.substr(place.name.size() + 1);
      if (serves(place, inner)) return {&place, inner};
    }
  return {};
}

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> Directory::start(engine::Request request,
                                                                                            engine::Sink& sink) {
  const Found found = find(request.model);
  if (found.place == nullptr)
    return std::unexpected(Refusal{.error = nobody(request.model), .reason = "model_not_found"});
  request.model = found.model;
  return found.place->generator->start(std::move(request), sink);
}

std::vector<engine::ModelCard> Directory::models() const {
  std::vector<engine::ModelCard> out;
  std::set<std::string> names;
  for (const Place& place : places_)
    for (engine::ModelCard& card : place.generator->models()) {
      if (!names.insert(card.id).second) {
        card.id = place.name + "/" + card.id;
        if (place.name.empty() || !names.insert(card.id).second) continue;
      }
      out.push_back(std::move(card));
    }
  return out;
}

Result<engine::Tokenized> Directory::tokenize(const std::string& model, const engine::Prompt& prompt,
                                              bool parse_special) const {
  const Found found = find(model);
  if (found.place == nullptr) return nobody(model);
  return found.place->generator->tokenize(found.model, prompt, parse_special);
}

Result<std::string> Directory::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  const Found found = find(model);
  if (found.place == nullptr) return nobody(model);
  return found.place->generator->detokenize(found.model, ids);
}

Result<std::string> Directory::render(const std::string& model, const engine::Chat& chat) const {
  const Found found = find(model);
  if (found.place == nullptr) return nobody(model);
  return found.place->generator->render(found.model, chat);
}

void Directory::when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const {
  const Found found = find(model);
  if (found.place == nullptr) return then(nobody(model));
  // A place that calls it otherwise is asked through us: the models of other servers are ready at any time.
  if (found.model != model) return then(this);
  found.place->generator->when_ready(model, std::move(then));
}

engine::Generator::Load Directory::load() const {
  Load out{.healthy = false};
  for (const Place& place : places_) {
    const Load one = place.generator->load();
    out.running += one.running;
    out.waiting += one.waiting;
    out.kv_used = std::max(out.kv_used, one.kv_used);
    out.prefill_tokens_per_second += one.prefill_tokens_per_second;
    out.decode_tokens_per_second += one.decode_tokens_per_second;
    out.healthy = out.healthy || one.healthy;
  }
  return out;
}

void Directory::load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) {
  if (order.model.empty()) return places_.front().generator->load_adapter(std::move(order), std::move(done));
  const Found found = find(order.model);
  if (found.place == nullptr) return done(nobody(order.model));
  order.model = found.model;
  found.place->generator->load_adapter(std::move(order), std::move(done));
}

Status Directory::unload_adapter(const std::string& name) {
  Status out = Error{Code::not_found, fmt::format("there is no adapter called '{}'", name)};
  for (const Place& place : places_)
    if (out = place.generator->unload_adapter(name); out || out.error().code != Code::not_found) break;
  return out;
}

void Directory::embed(engine::EmbedRequest request, Done done) {
  const auto refuse = [&](Error error) { done(std::unexpected(Refusal{.error = std::move(error)})); };
  const Found found = request.model.empty() ? Found{&places_.front(), ""} : find(request.model);
  if (found.place == nullptr) return refuse(nobody(request.model));
  if (found.place->embedder == nullptr)
    return refuse({Code::unsupported, fmt::format("the model '{}' gives no embeddings", request.model)});
  request.model = found.model;
  found.place->embedder->embed(std::move(request), std::move(done));
}

}  // namespace ashlar::gateway
