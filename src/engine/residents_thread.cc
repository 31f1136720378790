// Which models are in memory: who waits for one, which comes, which must go.
#include <algorithm>
#include <future>
#include <iterator>

#include "base/log.h"
#include "base/metrics.h"
#include "base/threads.h"
#include "engine/residents_state.h"

namespace ashlar::engine {
namespace {

Counter models_loaded{"engine_models_loaded_total", "Models brought into memory because they were asked for."};
Counter models_unloaded{"engine_models_unloaded_total", "Models that left memory, idle or for another's sake."};
Gauge models_resident{"engine_models_resident", "Models in memory, of those that come and go."};

// Those that it had when it left. One that cannot come back is gone.
void restore_adapters(const std::vector<ModelCard>& known, Generator& generator) {
  for (const ModelCard& card : known) {
    if (card.parent.empty()) continue;
    const Status added = add_adapter(generator, {.model = card.parent, .name = card.id, .path = card.root});
    if (!added) log::warn("adapter_not_loaded", {{"adapter", card.id}, {"why", added.error().message}});
  }
}

}  // namespace

std::optional<Resident> Residents::State::enter(ResidentSlot& slot, KeepAlive keep_alive,
                                                std::function<void(Loaded)> later) {
  const std::lock_guard lock(mutex_);
  slot.used = Clock::now();
  if (slot.loaded() && !slot.leaving) {
    admit(slot, keep_alive);
    return slot.resident;
  }
  slot.waiting.push_back({.call = std::move(later), .keep_alive = keep_alive});
  // One that has gone since it was found comes back for this.
  if (std::ranges::find(slots_, &slot, &SlotPtr::get) == slots_.end()) slots_.push_back(slot.shared_from_this());
  stir();
  return std::nullopt;
}

Loaded Residents::State::wait_for(ResidentSlot& slot) {
  const auto promise = std::make_shared<std::promise<Loaded>>();
  auto future = promise->get_future();
  if (auto resident = enter(slot, {}, [promise](Loaded loaded) { promise->set_value(std::move(loaded)); }))
    return std::move(*resident);
  return future.get();
}

void Residents::State::end() {
  thread_.request_stop();
  thread_.join();
  Lock lock(mutex_);
  for (const SlotPtr& slot : std::vector(slots_)) {
    const auto waiting = std::exchange(slot->waiting, {});
    if (slot->loaded()) {
      slot->known = slot->cards();
      models_resident.add(-1);
    }
    Resident resident = std::exchange(slot->resident, {});
    lock.unlock();
    for (const ResidentWaiter& each : waiting) each.call(Error{Code::unavailable, "the server is shutting down"});
    resident = {};  // fails what still runs
    lock.lock();
  }
}

void Residents::State::work(const std::stop_token& stop) {
  begin_thread("residents");
  Lock lock(mutex_);
  while (!stop.stop_requested()) {
    stirred_ = false;
    if (serve_one(lock) || expire_one(lock) || retire_some()) continue;
    changed_.wait_until(lock, stop, next_look(), [this] { return stirred_; });
  }
}

bool Residents::State::retire_some() {
  const auto now = Clock::now();
  for (const SlotPtr& slot : slots_)
    if (slot->ends && now >= *slot->ends) retire(*slot);
  return std::erase_if(slots_, [](const SlotPtr& slot) {
           return slot->standing == Standing::retired && !slot->loaded() && !slot->loading && slot->users == 0 &&
                  slot->waiting.empty();
         }) > 0;
}

std::optional<Clock::time_point> Residents::State::end_of(const ResidentSlot& slot) const {
  const auto keep_alive = slot.keep_alive.value_or(options_.keep_alive);
  if (!slot.loaded() || slot.users > 0 || keep_alive.count() < 0) return std::nullopt;
  return slot.used + keep_alive;
}

Clock::time_point Residents::State::next_look() const {
  auto when = Clock::now() + std::chrono::hours(1);
  for (const SlotPtr& slot : slots_) {
    if (const auto end = end_of(*slot)) when = std::min(when, *end);
    if (slot->ends) when = std::min(when, *slot->ends);
  }
  return when;
}

bool Residents::State::serve_one(Lock& lock) {
  // One that is to take another's place comes first, or that one's requests might keep it out for ever.
  std::vector<SlotPtr> in_turn;
  for (const bool staged : {true, false})
    std::ranges::copy_if(slots_, std::back_inserter(in_turn),
                         [&](const SlotPtr& slot) { return (slot->standing == Standing::staged) == staged; });
  for (const SlotPtr& each : in_turn) {
    ResidentSlot& slot = *each;
    if (slot.waiting.empty()) continue;
    if (slot.loaded() && slot.leaving) continue;
    if (!slot.loaded() && !make_room(slot, lock)) continue;
    if (!slot.loaded())
      if (const Status came = bring(slot, lock); !came) return refuse(slot, came.error(), lock);
    hand_out(slot, lock);
    return true;
  }
  return false;
}

Status Residents::State::bring(ResidentSlot& slot, Lock& lock) {
  slot.loading = true;
  const std::vector<ModelCard> known = slot.known;
  lock.unlock();
  Loaded made = slot.model.load();
  if (made) restore_adapters(known, *made->generator);
  lock.lock();
  slot.loading = false;
  if (!made) return std::unexpected(made.error());
  slot.resident = std::move(*made);
  slot.known = slot.cards();
  renamed();
  models_loaded.add();
  models_resident.add(1);
  return {};
}

void Residents::State::hand_out(ResidentSlot& slot, Lock& lock) {
  const auto waiting = std::exchange(slot.waiting, {});
  for (const ResidentWaiter& each : waiting) admit(slot, each.keep_alive);
  slot.used = Clock::now();
  const Resident resident = slot.resident;
  lock.unlock();
  for (const ResidentWaiter& each : waiting) each.call(resident);
  lock.lock();
}

bool Residents::State::refuse(ResidentSlot& slot, const Error& error, Lock& lock) {
  if (error.code == Code::exhausted)
    if (const SlotPtr other = least_used(); other != nullptr) {
      evict(*other, lock);
      return true;
    }
  log::warn("model_not_loaded", {{"model", slot.name}, {"why", error.message}});
  const auto waiting = std::exchange(slot.waiting, {});
  lock.unlock();
  for (const ResidentWaiter& each : waiting) each.call(error);
  lock.lock();
  return true;
}

bool Residents::State::make_room(const ResidentSlot& slot, Lock& lock) {
  while (true) {
    const auto loaded = std::ranges::count_if(slots_, [](const SlotPtr& each) { return each->loaded(); });
    const bool too_many = options_.max_loaded > 0 && loaded >= options_.max_loaded;
    const bool too_large = options_.available && slot.model.bytes > options_.available();
    if (loaded == 0 || (!too_many && !too_large)) return true;
    if (const SlotPtr idle = least_used()) {
      evict(*idle, lock);
      continue;
    }
    // All are in use: the one that was asked for longest ago takes nobody new.
    if (std::ranges::none_of(slots_, [](const SlotPtr& each) { return each->leaving; })) {
      SlotPtr oldest;
      for (const SlotPtr& each : slots_)
        if (each->loaded() && (oldest == nullptr || each->used < oldest->used)) oldest = each;
      oldest->leaving = true;
    }
    return false;
  }
}

SlotPtr Residents::State::least_used() const {
  SlotPtr found;
  for (const SlotPtr& slot : slots_)
    if (slot->loaded() && slot->users == 0 && (found == nullptr || slot->used < found->used)) found = slot;
  return found;
}

bool Residents::State::expire_one(Lock& lock) {
  const auto now = Clock::now();
  for (const SlotPtr& each : slots_) {
    if (!each->loaded() || each->users > 0) continue;
    const auto end = end_of(*each);
    const bool retired = each->standing == Standing::retired && each->waiting.empty();
    if (!(end && now >= *end) && !each->leaving && !retired) continue;
    const SlotPtr slot = each;  // which the list may lose meanwhile
    evict(*slot, lock);
    return true;
  }
  return false;
}

void Residents::State::evict(ResidentSlot& slot, Lock& lock) {
  slot.known = slot.cards();
  Resident resident = std::exchange(slot.resident, {});
  slot.leaving = false;
  slot.keep_alive.reset();
  lock.unlock();
  resident = {};  // waits for its threads
  lock.lock();
  models_unloaded.add();
  models_resident.add(-1);
  renamed();
  log::info("model_unloaded", {{"model", slot.name}});
}

}  // namespace ashlar::engine
