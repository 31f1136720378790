#include "text/jinja/symbols.h"

#include <algorithm>
#include <ranges>

namespace ashlar::text::jinja {

std::uint32_t Slots::slot(int level, const std::string& name) {
  const auto [at, fresh] = known.try_emplace(std::to_string(level) + ":" + name, body.slots);
  if (fresh) ++body.slots;
  return at->second;
}

std::optional<Symbols::Found> Symbols::find(const std::string& name) const {
  for (const Symbols* scope = this; scope != nullptr; scope = scope->outer_) {
    if (const auto at = scope->refs_.find(name); at != scope->refs_.end()) return Found{scope, at->second};
  }
  return std::nullopt;
}

Place Symbols::place_of(const Found& found) const {
  Place place{.slot = found.slot};
  for (const Slots* at = &slots_; at != &found.owner->slots_; at = at->outer) ++place.hops;
  return place;
}

void Symbols::set_ref(const std::string& name, std::uint32_t slot) {
  if (refs_.try_emplace(name, slot).second) journal_.push_back({.what = Learnt::What::ref, .name = name, .slot = slot});
}

void Symbols::set_load(std::uint32_t slot, Load load) {
  load.slot = slot;
  Learnt learnt{.what = Learnt::What::load, .slot = slot, .load = load};
  const auto [at, fresh] = loads_.try_emplace(slot, load);
  if (fresh) {
    order_.push_back(slot);
  } else {
    learnt.before = std::exchange(at->second, std::move(load));
  }
  journal_.push_back(std::move(learnt));
}

void Symbols::add_store(const std::string& name) {
  if (stores_.insert(name).second) journal_.push_back({.what = Learnt::What::store, .name = name});
}

std::uint32_t Symbols::define(const std::string& name, Load load) {
  const std::uint32_t slot = slots_.slot(level_, name);
  set_ref(name, slot);
  set_load(slot, std::move(load));
  return slot;
}

void Symbols::load(const std::string& name) {
  if (!find(name)) define(name, {.from = Load::From::context, .name = name});
}

void Symbols::store(const std::string& name) {
  add_store(name);
  if (refs_.contains(name)) return;
  Load load{.from = Load::From::nothing};
  if (const auto found = find(name)) load = {.from = Load::From::outer, .outer = place_of(*found)};
  define(name, std::move(load));
}

std::uint32_t Symbols::parameter(const std::string& name) {
  add_store(name);
  const std::uint32_t slot = slots_.slot(level_, name);
  set_ref(name, slot);
  parameters_.insert(slot);
  return slot;
}

std::vector<Symbols::Learnt> Symbols::end(std::size_t begin) {
  std::vector<Learnt> learnt(std::make_move_iterator(journal_.begin() + static_cast<std::ptrdiff_t>(begin)),
                             std::make_move_iterator(journal_.end()));
  journal_.resize(begin);
  for (const Learnt& one : learnt | std::views::reverse) {
    switch (one.what) {
      case Learnt::What::ref:
        refs_.erase(one.name);
        break;
      case Learnt::What::store:
        stores_.erase(one.name);
        break;
      case Learnt::What::load:
        if (one.before) {
          loads_[one.slot] = *one.before;
        } else {
          loads_.erase(one.slot);
          order_.pop_back();
        }
    }
  }
  return learnt;
}

void Symbols::merge(std::vector<std::vector<Learnt>> branches) {
  std::vector<std::string> stored;
  for (auto& branch : branches) {
    slots_.effort.used += branch.size();
    if (slots_.effort.spent()) return;
    for (Learnt& one : branch) {
      switch (one.what) {
        case Learnt::What::ref:
          set_ref(one.name, one.slot);
          break;
        case Learnt::What::load:
          set_load(one.slot, std::move(one.load));
          break;
        case Learnt::What::store:
          add_store(one.name);
          stored.push_back(std::move(one.name));
      }
    }
  }
  for (const std::string& name : stored) {
    const std::uint32_t slot = refs_.at(name);
    if (const auto found = outer_ == nullptr ? std::nullopt : outer_->find(name)) {
      set_load(slot, {.from = Load::From::outer, .outer = place_of(*found)});
    } else {
      set_load(slot, {.from = Load::From::context, .name = name});
    }
  }
}

Place Symbols::place(const std::string& name) {
  load(name);
  return place_of(*find(name));
}

std::vector<std::pair<std::string, Place>> Symbols::visible() const {
  std::vector<std::pair<std::string, Place>> names;
  std::unordered_set<std::string> seen;
  for (const Symbols* scope = this; scope != nullptr; scope = scope->outer_) {
    for (const std::string& name : scope->stores_) {
      if (seen.insert(name).second) names.emplace_back(name, place_of(*find(name)));
    }
  }
  return names;
}

Scope Symbols::scope() const {
  Scope scope;
  for (const std::uint32_t slot : order_) {
    scope.slots.push_back(slot);
    if (!parameters_.contains(slot)) scope.loads.push_back(loads_.at(slot));
  }
  for (const std::uint32_t slot : parameters_) {
    if (!loads_.contains(slot)) scope.slots.push_back(slot);
  }
  return scope;
}

}  // namespace ashlar::text::jinja
