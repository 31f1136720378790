// What a request used, and who keeps account of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "gateway/limits/prices.h"
#include "gateway/limits/rules.h"

namespace ashlar::gateway {

// What an admitted request was, once it is over.
struct UsageRecord {
  // interrupted: the server was killed while it answered. kept: an answer of the response cache, which costs nothing.
  enum class End { finished, failed, dropped, interrupted, kept };
  std::string reservation;  // unique, also among replicas: a ledger that sees it twice has seen one request
  std::string request;      // its id
  Subject subject;
  std::string given_id;    // what the client calls it; "": it did not say
  std::string model;       // as limits and prices know it
  std::string deployment;  // of the route, who answered; "": nobody chose
  TokenUse use;            // what was delivered
  std::int64_t cost = 0;   // nano-dollars
  std::int64_t begun_utc_ms = 0;
  double seconds = 0;
  std::optional<double> first_seconds;  // until the first of the answer
  End end = End::finished;
};

// By which name limits, prices and accounts know the model that a request asks for.
template <class Request>
const std::string& counted_model(const Request& request) {
  return request.sender.counted_as.empty() ? request.model : request.sender.counted_as;
}

// The id of the `number`th reservation beside that of a request, from 0 on; a request has at most kMostAlso.
inline constexpr std::uint32_t kMostAlso = 64;
inline std::string also_id(const std::string& reservation, std::uint32_t number) {
  return reservation + "~" + std::to_string(number);
}

// A request that runs, where somebody who comes after this process finds it. Shared by all who send its answer: when
// the last lets go of it, its record goes to the ledger, or nowhere if it has not ended. One thread at a time, except
// for delivered().
class OpenUsage {
 public:
  // delivered(): all that the request's record says, whatever that is.
  static constexpr std::uint64_t kAll = ~std::uint64_t{0};

  virtual ~OpenUsage() = default;
  // What it used of the prompt.
  virtual void prompt(const TokenUse& use) = 0;
  // Tokens of the answer that left this process: to be moved before they do. Any thread.
  virtual std::atomic<std::uint64_t>& delivered() = 0;
  // It is over. Only what the client has yet to get is still to come.
  virtual void end(UsageRecord record) = 0;
  // So many reservations stand beside its own, under also_id(): limits that came while it ran. Any thread.
  virtual void also(std::uint32_t count) = 0;
  // Lives until the record is on its way to the ledger. Before it runs.
  virtual void hold(std::shared_ptr<const void> held) = 0;
};

// Where usage records go. Any thread.
class UsageLedger {
 public:
  virtual ~UsageLedger() = default;
  // Once for each admitted request that is not open(), on whatever thread ended it: the generator's, which must not
  // wait, or the one that dropped the ticket.
  virtual void record(const UsageRecord& record) = 0;
  // Before it runs: with what its record says by then, its price, and what its reservation's charges measure. Null: it
  // is not kept open, and record() wants it. unavailable: nor could record() keep it.
  virtual Result<std::shared_ptr<OpenUsage>> open(const UsageRecord& begun, const std::optional<Price>& price,
                                                  std::span<const Measure> measures) {
    (void)begun, (void)price, (void)measures;
    return nullptr;
  }
};

}  // namespace ashlar::gateway
