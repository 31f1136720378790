#include "gateway/upstreams/door.h"

#include <algorithm>
#include <utility>

namespace ashlar::gateway {

Door::Door(std::shared_ptr<const Places> places, std::string model)
    : model_(std::move(model)), directory_(std::move(places)) {
  look();
}

void Door::set(std::shared_ptr<const Places> places) {
  directory_.set(std::move(places));
  Seen old;
  {
    const std::lock_guard lock(mutex_);
    old = std::exchange(last_, {});
  }
  look();
}

Door::Seen Door::look() const {
  Seen now{.places = directory_.places(), .found = {}};
  now.found = now.places->find(model_);
  const std::lock_guard lock(mutex_);
  if (now.found.place == nullptr) return last_;
  if (last_.places != now.places || last_.found.place != now.found.place) last_ = now;
  return now;
}

const engine::Generator* Door::behind() const {
  const Seen seen = look();
  return seen.found.place == nullptr ? nullptr : seen.found.place->generator.get();
}

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> Door::start(engine::Request request,
                                                                                       engine::Sink& sink) {
  if (request.model != model_) return directory_.start(std::move(request), sink);  // an adapter
  Seen seen = look();
  if (seen.found.place == nullptr) return directory_.start(std::move(request), sink);  // gives the error
  request.model = std::move(seen.found.model);
  auto ticket = seen.found.place->generator->start(std::move(request), sink);
  if (!ticket) return ticket;
  return hold(*seen.found.place, std::move(*ticket));
}

std::vector<engine::ModelCard> Door::models() const {
  const Seen seen = look();
  if (seen.found.place == nullptr) return {};
  std::vector<engine::ModelCard> cards = seen.found.place->generator->models();
  std::erase_if(cards, [&](const engine::ModelCard& card) {
    return card.id != seen.found.model && card.parent != seen.found.model;
  });
  for (engine::ModelCard& card : cards)
    if (card.id == seen.found.model) card.id = model_;
  return cards;
}

std::optional<engine::ModelCard> Door::card(const std::string& model) const {
  const Seen seen = look();
  if (model != model_ || seen.found.place == nullptr) return Generator::card(model);
  auto card = seen.found.place->generator->card(seen.found.model);
  if (card) card->id = model_;
  return card;
}

std::optional<std::uint64_t> Door::names_version() const { return directory_.names_version(); }

Result<engine::Tokenized> Door::tokenize(const std::string& model, const engine::Prompt& prompt,
                                         bool parse_special) const {
  return directory_.tokenize(model, prompt, parse_special);
}
Result<std::string> Door::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  return directory_.detokenize(model, ids);
}
Result<std::string> Door::render(const std::string& model, const engine::Chat& chat) const {
  return directory_.render(model, chat);
}
void Door::when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const {
  directory_.when_ready(model, std::move(then));
}

std::shared_ptr<const engine::CachedPrefixes> Door::cached_prefixes(const std::string& model) const {
  return directory_.cached_prefixes(model);
}

engine::Generator::Load Door::load() const {
  const Seen seen = look();
  return seen.found.place == nullptr ? Load{.healthy = false} : seen.found.place->generator->load();
}

void Door::load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) {
  directory_.load_adapter(std::move(order), std::move(done));
}
Status Door::unload_adapter(const std::string& name) { return directory_.unload_adapter(name); }

}  // namespace ashlar::gateway
