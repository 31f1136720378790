#include "gateway/upstreams/directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/contains.h"
#include "engine/load_sum.h"

namespace ashlar::gateway {
namespace {

using Found = Places::Found;

constexpr std::size_t kMostShown = 64;

Error nobody(const std::string& model) {
  return {Code::not_found, fmt::format("the model '{}' does not exist; GET /v1/models lists those served", model)};
}

// The ticket dies first.
class HeldPlace final : public engine::Ticket {
 public:
  HeldPlace(std::shared_ptr<engine::Generator> place, std::unique_ptr<engine::Ticket> ticket)
      : place_(std::move(place)), ticket_(std::move(ticket)) {}

 private:
  const std::shared_ptr<engine::Generator> place_;
  const std::unique_ptr<engine::Ticket> ticket_;
};

}  // namespace

std::unique_ptr<engine::Ticket> hold(const Place& place, std::unique_ptr<engine::Ticket> ticket) {
  if (place.generator.use_count() == 0) return ticket;  // borrowed
  return std::make_unique<HeldPlace>(place.generator, std::move(ticket));
}

void Directory::set(std::shared_ptr<const Places> places) {
  const std::lock_guard lock(mutex_);
  places_.swap(places);  // the old ones die after the lock
}

std::shared_ptr<const Places> Directory::places() const {
  const std::lock_guard lock(mutex_);
  return places_;
}

Status Directory::may_see(const Place& place, const std::string& model, const engine::Sender& sender) const {
  if (marked_ == Marked::anywhere || !place.data_classes) return {};
  for (const std::string& each : sender.data_classes)
    if (!contains(*place.data_classes, each))
      return Error{Code::forbidden,
                   fmt::format("the model '{}' may not see data of the class '{}'", model, each.substr(0, kMostShown))};
  return {};
}

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> Directory::start(engine::Request request,
                                                                                            engine::Sink& sink) {
  const auto places = this->places();
  Found found = places->find(request.model);
  if (found.place == nullptr)
    return std::unexpected(Refusal{.error = nobody(request.model), .reason = "model_not_found"});
  if (auto may = may_see(*found.place, request.model, request.sender); !may)
    return std::unexpected(Refusal{.error = std::move(may.error())});
  request.model = std::move(found.model);
  auto ticket = found.place->generator->start(std::move(request), sink);
  if (!ticket) return ticket;
  return hold(*found.place, std::move(*ticket));
}

std::vector<engine::ModelCard> Directory::models() const { return places()->models(); }
std::optional<engine::ModelCard> Directory::card(const std::string& model) const {
  const auto places = this->places();
  const Found found = places->find(model);
  auto card = found.place != nullptr ? found.place->generator->card(found.model) : std::nullopt;
  if (!card) return Generator::card(model);
  if (found.model == model) return card;
  card->id = model;
  // A second name of what is listed by the first: for rules, limits and prices it is that one.
  if (places->find(found.model).place == found.place) card->alias_of = found.model;
  return card;
}
std::optional<std::uint64_t> Directory::names_version() const { return places()->version(); }

Result<engine::Tokenized> Directory::tokenize(const std::string& model, const engine::Prompt& prompt,
                                              bool parse_special) const {
  const auto places = this->places();
  const Found found = places->find(model);
  if (found.place == nullptr) return nobody(model);
  return found.place->generator->tokenize(found.model, prompt, parse_special);
}

Result<std::string> Directory::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  const auto places = this->places();
  const Found found = places->find(model);
  if (found.place == nullptr) return nobody(model);
  return found.place->generator->detokenize(found.model, ids);
}

Result<std::string> Directory::render(const std::string& model, const engine::Chat& chat) const {
  const auto places = this->places();
  const Found found = places->find(model);
  if (found.place == nullptr) return nobody(model);
  return found.place->generator->render(found.model, chat);
}

void Directory::when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const {
  const auto places = this->places();
  const Found found = places->find(model);
  if (found.place == nullptr) return then(nobody(model));
  // A place that calls it otherwise is asked through us: the models of other servers are ready at any time.
  if (found.model != model) return then(this);
  found.place->generator->when_ready(
      model, [held = found.place->generator, then = std::move(then)](auto ready) { then(std::move(ready)); });
}

std::shared_ptr<const engine::CachedPrefixes> Directory::cached_prefixes(const std::string& model) const {
  const auto places = this->places();
  const Found found = places->find(model);
  return found.place == nullptr ? nullptr : found.place->generator->cached_prefixes(found.model);
}

engine::Generator::Load Directory::load() const {
  Load out{.healthy = false};
  for (const Place& place : places()->all()) {
    const Load one = place.generator->load();
    engine::add(out, one);
    out.healthy = out.healthy || one.healthy;
  }
  return out;
}

void Directory::load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) {
  const auto places = this->places();
  Found found;
  if (!order.model.empty())
    found = places->find(order.model);
  else if (!places->all().empty())
    found.place = &places->all().front();
  if (found.place == nullptr) return done(nobody(order.model));
  order.model = std::move(found.model);
  found.place->generator->load_adapter(std::move(order), [held = found.place->generator, done = std::move(done)](
                                                             Status status) { done(std::move(status)); });
}

Status Directory::unload_adapter(const std::string& name) {
  Status out = Error{Code::not_found, fmt::format("there is no adapter called '{}'", name)};
  for (const auto places = this->places(); const Place& place : places->all())
    if (out = place.generator->unload_adapter(name); out || out.error().code != Code::not_found) break;
  return out;
}

void Directory::embed(engine::EmbedRequest request, Done done) {
  const auto refuse = [&](Error error) { done(std::unexpected(Refusal{.error = std::move(error)})); };
  const auto places = this->places();
  Found found;
  if (!request.model.empty()) {
    found = places->find(request.model);
  } else {
    const auto embeds =
        std::ranges::find_if(places->all(), [](const Place& place) { return place.embedder != nullptr; });
    if (embeds != places->all().end()) found.place = &*embeds;
  }
  if (found.place == nullptr) return refuse(nobody(request.model));
  if (found.place->embedder == nullptr)
    return refuse({Code::unsupported, fmt::format("the model '{}' gives no embeddings", request.model)});
  if (auto may = may_see(*found.place, request.model, request.sender); !may) return refuse(std::move(may.error()));
  request.model = std::move(found.model);
  found.place->embedder->embed(std::move(request), [held = found.place->embedder, done = std::move(done)](auto answer) {
    done(std::move(answer));
  });
}

}  // namespace ashlar::gateway
