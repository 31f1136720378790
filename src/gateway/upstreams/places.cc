#include "gateway/upstreams/places.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <utility>

namespace ashlar::gateway {
namespace {

std::uint64_t next_number() {
  static std::atomic<std::uint64_t> made{0};
  return ++made;
}

bool serves(const Place& place, std::string_view name) {
  const auto cards = place.generator->models();
  return std::ranges::find(cards, name, &engine::ModelCard::id) != cards.end();
}

}  // namespace

Places::Places(std::vector<Place> all) : all_(std::move(all)), number_(next_number()) {
  for (const Place& place : all_) counted_.push_back(dynamic_cast<const engine::CountedNames*>(place.generator.get()));
}

Places::Found Places::find(const std::string& model) const {
  if (all_.size() == 1 && all_.front().name.empty()) return {&all_.front(), model};
  const auto version = this->version();
  if (!version) return search(model);
  const auto names = index(*version);
  const auto found = names->names.find(model);
  return found == names->names.end() ? unlisted(model) : found->second;
}

// UPSTREAM/NAME of places behind a place, MODEL:ADAPTER.
Places::Found Places::unlisted(const std::string& model) const {
  for (const Place& place : all_)
    if (place.name.empty() && place.generator->card(model)) return {&place, model};
  return {};
}

// Where nobody counts: as the index says it, by asking.
Places::Found Places::search(const std::string& model) const {
  for (const Place& place : all_)
    if (serves(place, model)) return {&place, model};
  for (const Place& place : all_)
    if (!place.name.empty() && model.starts_with(place.name + "/")) {
      std::string inner = model.substr(place.name.size() + 1);
      if (serves(place, inner)) return {&place, std::move(inner)};
    }
  return unlisted(model);
}

// The version was read before the names are: names that change meanwhile bring another version with them.
std::shared_ptr<const Places::Index> Places::index(std::uint64_t version) const {
  {
    const std::lock_guard lock(mutex_);
    if (index_ != nullptr && index_->version == version) return index_;
  }
  auto made = std::make_shared<Index>();
  made->version = version;
  std::vector<std::vector<engine::ModelCard>> cards;
  for (const Place& place : all_) cards.push_back(place.generator->models());
  for (std::size_t i = 0; i < all_.size(); ++i)
    for (const auto& card : cards[i]) made->names.try_emplace(card.id, Found{&all_[i], card.id});
  for (std::size_t i = 0; i < all_.size(); ++i)
    if (!all_[i].name.empty())
      for (const auto& card : cards[i]) made->names.try_emplace(all_[i].name + "/" + card.id, Found{&all_[i], card.id});
  const std::lock_guard lock(mutex_);
  index_ = made;
  return made;
}

std::vector<engine::ModelCard> Places::models() const {
  std::vector<engine::ModelCard> out;
  std::set<std::string> names;
  for (const Place& place : all_)
    for (engine::ModelCard& card : place.generator->models()) {
      if (!names.insert(card.id).second) {
        card.id = place.name + "/" + card.id;
        if (place.name.empty() || !names.insert(card.id).second) continue;
      }
      out.push_back(std::move(card));
    }
  return out;
}

std::optional<std::uint64_t> Places::version() const {
  std::uint64_t version = number_;
  for (const engine::CountedNames* each : counted_) {
    const auto one = each != nullptr ? each->names_version() : std::nullopt;
    if (!one) return std::nullopt;
    version = engine::mixed_version(version, *one);
  }
  return version;
}

}  // namespace ashlar::gateway
