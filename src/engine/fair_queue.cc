#include "engine/fair_queue.h"

#include <algorithm>
#include <limits>

#include "base/result.h"
#include "engine/scheduler.h"

namespace ashlar::engine {
namespace {

constexpr std::size_t kIdleAccounts = 1024;  // accounts in a class before the idle ones are looked through

}  // namespace

bool EarlierFirst::operator()(const Sequence* a, const Sequence* b) const { return a->order < b->order; }

double FairQueue::least_served(const Class& members) {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [tenant, account] : members.accounts)
    if (account.active > 0) least = std::min(least, account.served);
  return least;
}

void FairQueue::forget_idle(Class& members) {
  if (members.accounts.size() <= kIdleAccounts) return;
  // Whoever stands at or below the least served would be lifted there anyway.
  const double least = least_served(members);
  std::erase_if(members.accounts,
                [&](const auto& entry) { return entry.second.active == 0 && entry.second.served <= least; });
}

void FairQueue::enter(Sequence& sequence) {
  Class& members = classes_[sequence.priority];
  const double least = least_served(members);
  Account& account = members.accounts[sequence.tenant];
  if (account.active == 0 && least < std::numeric_limits<double>::infinity())
    account.served = std::max(account.served, least);
  ++account.active;
  ++members.active;
  sequence.account = &account;
}

void FairQueue::leave(Sequence& sequence) {
  const auto found = classes_.find(sequence.priority);
  CHECK(found != classes_.end() && sequence.account != nullptr, "a sequence leaves the class it entered");
  --sequence.account->active;
  sequence.account = nullptr;
  if (--found->second.active == 0)
    classes_.erase(found);
  else
    forget_idle(found->second);
}

void FairQueue::push(Sequence& sequence) {
  sequence.account->waiting.insert(&sequence);
  ++waiting_;
}

void FairQueue::remove(Sequence& sequence) { waiting_ -= sequence.account->waiting.erase(&sequence); }

Sequence* FairQueue::next(int priority) const {
  const auto found = classes_.find(priority);
  if (found == classes_.end()) return nullptr;
  Sequence* best = nullptr;
  for (const auto& [tenant, account] : found->second.accounts) {
    if (account.waiting.empty()) continue;
    Sequence* first = *account.waiting.begin();
    if (best == nullptr || account.served < best->account->served ||
        (account.served == best->account->served && first->order < best->order))
      best = first;
  }
  return best;
}

Sequence* FairQueue::oldest_behind() const {
  Sequence* oldest = nullptr;
  for (auto at = classes_.begin(); at != classes_.end() && at->first <= 0; ++at) {
    if (at == classes_.begin()) continue;
    for (const auto& [tenant, account] : at->second.accounts)
      if (!account.waiting.empty() && (oldest == nullptr || (*account.waiting.begin())->order < oldest->order))
        oldest = *account.waiting.begin();
  }
  return oldest;
}

double FairQueue::served(int priority, const std::string& tenant) const {
  const auto found = classes_.find(priority);
  if (found == classes_.end()) return 0;
  const auto account = found->second.accounts.find(tenant);
  return account == found->second.accounts.end() ? 0 : account->second.served;
}

}  // namespace ashlar::engine
