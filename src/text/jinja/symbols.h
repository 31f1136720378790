// The names of one scope while they are being bound (scope.h).
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/jinja/ast.h"

namespace ashlar::text::jinja {

// What all scopes of a template may cost together. A name assigned under a hundred
// ifs is learnt a hundred times over, so a hostile source must be stopped.
struct Effort {
  static constexpr std::size_t kMost = 1'000'000;
  bool spent() const { return used > kMost; }
  std::size_t used = 0;
};

// The slots of one function, one for each name and level used in it.
struct Slots {
  Slots(Slots* outer_in, Body& body_in, Effort& effort_in) : outer(outer_in), body(body_in), effort(effort_in) {}
  std::uint32_t slot(int level, const std::string& name);
  Slots* outer;
  Body& body;
  Effort& effort;
  std::unordered_map<std::string, std::uint32_t> known;
};

class Symbols {
 public:
  // A child of `outer` (may be null) whose slots live in `slots`.
  Symbols(const Symbols* outer, Slots& slots)
      : outer_(outer), slots_(slots), level_(outer == nullptr ? 0 : outer->level_ + 1) {}

  void load(const std::string& name);
  void store(const std::string& name);
  std::uint32_t parameter(const std::string& name);

  // A branch of an if: what is learnt between begin() and end() is taken back
  // and returned; merge() then learns all branches at once.
  struct Learnt {
    enum class What : std::uint8_t { ref, load, store } what;
    std::string name;
    std::uint32_t slot = 0;
    Load load;
    std::optional<Load> before;
  };
  std::size_t begin() const { return journal_.size(); }
  std::vector<Learnt> end(std::size_t begin);
  void merge(std::vector<std::vector<Learnt>> branches);

  // Where `name` lives as seen from this scope's function; learns it from the
  // context if nobody knows it.
  Place place(const std::string& name);
  // All names assigned here or further out.
  std::vector<std::pair<std::string, Place>> visible() const;
  Scope scope() const;
  Slots& slots() const { return slots_; }

 private:
  struct Found {
    const Symbols* owner;
    std::uint32_t slot;
  };
  std::optional<Found> find(const std::string& name) const;
  Place place_of(const Found& found) const;
  std::uint32_t define(const std::string& name, Load load);
  void set_ref(const std::string& name, std::uint32_t slot);
  void set_load(std::uint32_t slot, Load load);
  void add_store(const std::string& name);

  const Symbols* outer_;
  Slots& slots_;
  int level_;
  std::unordered_map<std::string, std::uint32_t> refs_;
  std::unordered_map<std::uint32_t, Load> loads_;
  std::vector<std::uint32_t> order_;  // of loads_
  std::unordered_set<std::uint32_t> parameters_;
  std::unordered_set<std::string> stores_;
  std::vector<Learnt> journal_;
};

}  // namespace ashlar::text::jinja
