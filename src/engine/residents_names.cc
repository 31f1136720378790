// Which models are served, by which names, and what is told of them.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "engine/load_sum.h"
#include "engine/prefix_book.h"
#include "engine/residents_state.h"

namespace ashlar::engine {
namespace {

// How long a model that was taken away is found by those who knew of it.
constexpr std::chrono::seconds kKnown{1};

bool means(const ModelCard& card, const std::string& name) {
  return card.id == name || (!card.parent.empty() && card.parent + ":" + card.id == name);
}

}  // namespace

Generator::Refusal no_reader(const std::string& model) {
  if (model.empty()) return {.error = {Code::unsupported, "no model here does that"}};
  return {.error = {Code::unsupported, fmt::format("the model '{}' neither embeds nor ranks texts", model)}};
}

Result<SlotPtr> Residents::State::find(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (const SlotPtr found = by_name(name)) return found;
  std::string served;
  for (const SlotPtr& slot : slots_) {
    if (!slot->listed()) continue;
    for (const ModelCard& card : slot->cards()) {
      if (name.empty() || means(card, name)) return slot;
      served.append(served.empty() ? "" : ", ").append(card.id);
    }
  }
  return Error{Code::not_found, fmt::format("there is no model '{}' here, but {}", name, served)};
}

std::expected<SlotPtr, Generator::Refusal> Residents::State::find_reader(const std::string& model, bool ranks) {
  const std::lock_guard lock(mutex_);
  for (const SlotPtr& slot : slots_) {
    if (slot->standing != Standing::served) continue;
    const ModelCard& card = slot->known.front();
    const bool does = ranks ? card.ranks : card.embedding > 0;
    // Named, a model says itself which of the two it does.
    if (model.empty() ? does && slot->listed() : slot->name == model && (card.ranks || card.embedding > 0)) return slot;
  }
  return std::unexpected(no_reader(model));
}

bool Residents::State::taken(const std::string& name, const ResidentSlot& owner) {
  const std::lock_guard lock(mutex_);
  for (const SlotPtr& slot : slots_) {
    if (slot->standing != Standing::served) continue;
    for (const ModelCard& card : slot->cards())
      if (card.id == name && (slot.get() != &owner || card.parent.empty())) return true;
  }
  return false;
}

Status Residents::State::add(ResidentModel model) {
  const std::lock_guard lock(mutex_);
  const SlotPtr taken = by_name(model.card.id);
  if (taken != nullptr && taken->listed())
    return Error{Code::invalid, fmt::format("two models are to be served as '{}'", model.card.id)};
  if (taken != nullptr) retire(*taken);
  slots_.push_back(make_slot(std::move(model), Standing::served));
  renamed();
  return {};
}

Status Residents::State::put(ResidentModel model, const std::function<Status(const Resident&)>& check) {
  const std::string name = model.card.id;
  const SlotPtr fresh = make_slot(std::move(model), Standing::staged);
  {
    const std::lock_guard lock(mutex_);
    if (const SlotPtr old = by_name(name))
      for (const ModelCard& card : old->cards())
        if (!card.parent.empty()) fresh->known.push_back(card);
    slots_.push_back(fresh);
  }
  Loaded loaded = wait_for(*fresh);
  Status fine;
  if (!loaded)
    fine = std::unexpected(loaded.error());
  else if (check)
    fine = check(*loaded);
  {
    const std::lock_guard lock(mutex_);
    fresh->standing = fine ? Standing::served : Standing::retired;
    if (fine) take_place(fresh);
    renamed();
  }
  if (loaded) {
    loaded = Resident{};
    leave(*fresh);
  } else {
    const std::lock_guard lock(mutex_);
    stir();
  }
  return fine;
}

Status Residents::State::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const SlotPtr slot = by_name(name);
  if (slot == nullptr || !slot->listed())
    return Error{Code::not_found, fmt::format("there is no model '{}' here", name)};
  slot->ends = Clock::now() + kKnown;
  renamed();
  stir();
  return {};
}

Status Residents::State::unload_adapter(const std::string& name) {
  const SlotPtr slot = TRY(find(name));
  {
    const std::lock_guard lock(mutex_);
    if (!slot->loaded() && !slot->loading) {
      const auto gone =
          std::erase_if(slot->known, [&](const ModelCard& card) { return !card.parent.empty() && card.id == name; });
      renamed();
      if (gone > 0) return {};
    }
  }
  const Status done = use(name, [&](Generator& generator) { return generator.unload_adapter(name); });
  renamed();
  return done;
}

std::vector<ModelCard> Residents::State::cards() {
  const std::lock_guard lock(mutex_);
  std::vector<ModelCard> out;
  for (const SlotPtr& slot : slots_) {
    if (!slot->listed()) continue;
    for (ModelCard& card : slot->cards()) out.push_back(std::move(card));
  }
  return out;
}

void Residents::State::unload_idle() {
  const std::lock_guard lock(mutex_);
  for (const SlotPtr& slot : slots_)
    slot->leaving = slot->leaving || (slot->loaded() && slot->users == 0 && slot->waiting.empty());
  stir();
}

Status Residents::State::unload(const std::string& model) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::ranges::find_if(slots_, [&](const SlotPtr& slot) { return slot->listed() && slot->name == model; });
  if (found == slots_.end()) return Error{Code::not_found, fmt::format("no model here is called '{}'", model)};
  (*found)->leaving = (*found)->leaving || (*found)->loaded();
  stir();
  return {};
}

std::vector<std::string> Residents::State::loaded() {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const SlotPtr& slot : slots_)
    if (slot->loaded() && slot->listed()) out.push_back(slot->name);
  return out;
}

std::shared_ptr<const CachedPrefixes> Residents::State::cached_prefixes(const std::string& model) {
  static const auto kNothing = std::make_shared<const PrefixBook>(0);
  const Result<SlotPtr> slot = find(model);
  if (!slot) return nullptr;
  const std::lock_guard lock(mutex_);
  return (*slot)->loaded() ? (*slot)->resident.generator->cached_prefixes(model) : kNothing;
}

Generator::Load Residents::State::load() {
  const std::lock_guard lock(mutex_);
  Load sum;
  for (const SlotPtr& slot : slots_) {
    sum.waiting += static_cast<int>(slot->waiting.size());
    if (!slot->loaded()) continue;
    const Load one = slot->resident.generator->load();
    engine::add(sum, one);
    sum.healthy = sum.healthy && one.healthy;
  }
  return sum;
}

SlotPtr Residents::State::make_slot(ResidentModel model, Standing standing) {
  auto slot = std::make_shared<ResidentSlot>();
  slot->name = model.card.id;
  slot->known = {model.card};
  slot->model = std::move(model);
  slot->standing = standing;
  return slot;
}

SlotPtr Residents::State::by_name(const std::string& name) const {
  for (const SlotPtr& slot : slots_)
    if (slot->standing == Standing::served && slot->name == name) return slot;
  return nullptr;
}

void Residents::State::retire(ResidentSlot& slot) {
  slot.standing = Standing::retired;
  slot.ends.reset();
  stir();
}

void Residents::State::take_place(const SlotPtr& fresh) {
  const auto old = std::ranges::find_if(slots_, [&](const SlotPtr& slot) {
    return slot != fresh && slot->standing == Standing::served && slot->name == fresh->name;
  });
  if (old == slots_.end()) return;
  retire(**old);
  std::iter_swap(old, std::ranges::find(slots_, fresh));
}

}  // namespace ashlar::engine
