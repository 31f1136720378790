// Who is next: priority classes, and within a class the tenant that was served
// least. Service is counted in tokens as VTC does it (Sheng et al., "Fairness in
// Serving Large Language Models", OSDI 2024): a prompt token counts 1, an
// answer's token 2, and a tenant that comes back from idleness starts level with
// the least served of those who have work, so that nobody saves up a burst.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace ashlar::engine {

struct Sequence;

struct EarlierFirst {
  bool operator()(const Sequence* a, const Sequence* b) const;
};

// One tenant's account in one class. Lives while it has work, and a while longer.
struct Account {
  double served = 0;
  int active = 0;  // sequences waiting or running
  std::set<Sequence*, EarlierFirst> waiting;
};

// Engine thread only.
class FairQueue {
 public:
  static constexpr double kPromptWeight = 1, kAnswerWeight = 2;

  // Opens the sequence's account for as long as it has work; every enter() needs its leave().
  void enter(Sequence& sequence);
  void leave(Sequence& sequence);

  void push(Sequence& sequence);
  void remove(Sequence& sequence);

  // The waiting sequence of class `priority` that is next; null: none.
  Sequence* next(int priority) const;

  // The most urgent class that has work; there is one.
  int most_urgent() const { return classes_.begin()->first; }
  // The earliest of all that wait in less urgent classes than that, down to the usual one (0); null: none. Those of
  // other numbers asked to be last.
  Sequence* oldest_behind() const;

  std::size_t waiting() const { return waiting_; }
  // Calls `visit(priority)` for each class that has work, the most urgent first,
  // until it returns false.
  template <class Visit>
  void for_each_class(Visit&& visit) const {
    for (auto at = classes_.begin(); at != classes_.end();) {
      const int priority = at->first;
      if (!visit(priority)) return;
      at = classes_.upper_bound(priority);
    }
  }
  // Tokens charged to a tenant so far, for tests and the curious; 0 if unknown.
  double served(int priority, const std::string& tenant) const;

 private:
  struct Class {
    std::map<std::string, Account> accounts;
    int active = 0;
  };
  static double least_served(const Class& members);
  static void forget_idle(Class& members);

  std::map<int, Class> classes_;
  std::size_t waiting_ = 0;
};

}  // namespace ashlar::engine
