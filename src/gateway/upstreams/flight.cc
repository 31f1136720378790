#include "gateway/upstreams/flight.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "net/http_text.h"

namespace ashlar::gateway {
namespace {

using engine::Clock;
using std::chrono::milliseconds;

constexpr std::size_t kMaxErrorBody = 64 << 10;
constexpr milliseconds kLinger{
    250};  // for the end of an answer that is whole already, so that its connection can be kept
constexpr int kMostUnseen = 4;
constexpr milliseconds kMaxRetryWait{15'000};  // who must wait longer is told so instead

std::mt19937_64& dice() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return random;
}

milliseconds until(Clock::time_point when) {
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(when - Clock::now()));
}

// Its callbacks come on the client's thread, start and the ticket's death on others': one lock around all, recursive
// because a sink may drop its ticket. Calls are dropped without it.
class Flight : public std::enable_shared_from_this<Flight> {
 public:
  Flight(UpstreamState& upstream, engine::Request&& request, net::ClientRequest order, engine::Sink& sink)
      : up_(upstream),
        asked_(std::make_unique<const Asked>(std::move(request), std::move(order))),
        sink_(sink),
        ends_(end_of(asked_->request)) {
    up_.budget.began();
    up_.metrics.requests.add();
    up_.metrics.running.add(1);
  }

  void begin() {
    const Hold hold(*this);
    launch(false);
    if (up_.options.hedge_after.count() > 0)
      hedge_ = after(up_.options.hedge_after, [](Flight& self) { self.hedge(); });
  }

  // The ticket's death. Waits for a callback in progress.
  void drop() {
    const Hold hold(*this);
    finish();
    for (auto& attempt : attempts_) retire(*attempt);
    spend(std::move(hedge_));
    spend(std::move(pause_));
    attempts_.clear();
  }

 private:
  // The lock. Calls that are done with die when it is let go of: their death waits for a callback in progress, which
  // may wait for the lock.
  class Hold {
   public:
    explicit Hold(Flight& flight) : flight_(flight), lock_(flight.mutex_) { ++flight_.holds_; }
    ~Hold() {
      std::vector<std::unique_ptr<net::Call>> spent;
      if (--flight_.holds_ == 0) spent.swap(flight_.spent_);
      lock_.unlock();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    Flight& flight_;
    std::unique_lock<std::recursive_mutex> lock_;
  };

  struct Attempt {
    Attempt(const std::string& upstream, const engine::Request& request, bool is_extra)
        : teller(upstream, request), extra(is_extra) {}
    Teller teller;
    std::unique_ptr<Reader> reader;  // once a head with 200 has come
    int status = 0;
    net::Headers headers;
    std::string error_body;
    Clock::time_point due;    // the next token
    Clock::time_point rings;  // the alarm
    bool extra;               // a retry or a hedge: holds a part of the budget
    std::unique_ptr<net::Call> call, alarm;
  };
  using Held = std::shared_ptr<Attempt>;

  // What a further attempt needs.
  struct Asked {
    engine::Request request;
    net::ClientRequest order;
  };

  Clock::time_point end_of(const engine::Request& request) const {
    const milliseconds total = up_.options.total_timeout;
    return total.count() > 0 ? std::min(request.deadline, Clock::now() + total) : request.deadline;
  }

  // Under the lock, if neither the flight nor the attempt is over.
  template <class Act>
  static void with(const std::weak_ptr<Flight>& flight, const std::weak_ptr<Attempt>& attempt, Act act) {
    const auto self = flight.lock();
    if (!self) return;
    const Hold hold(*self);
    const auto held = attempt.lock();
    if (held && !self->over_ && std::ranges::find(self->attempts_, held) != self->attempts_.end()) act(*self, held);
  }

  template <class Act>
  std::unique_ptr<net::Call> after(milliseconds delay, Act act) {
    return up_.client().after_here(delay, [flight = weak_from_this(), act] {
      const auto self = flight.lock();
      if (!self) return;
      const Hold hold(*self);
      if (!self->over_) act(*self);
    });
  }

  void launch(bool extra) {
    auto attempt = std::make_shared<Attempt>(up_.options.name, asked_->request, extra);
    attempts_.push_back(attempt);
    ++made_;
    const milliseconds first = up_.options.first_token_timeout, between = up_.options.between_tokens_timeout;
    attempt->due = std::min(Clock::now() + first, ends_);
    // The silence that the client bears is beyond ours, which counts tokens and not bytes.
    net::ClientRequest out = up_.outgoing(asked_->order, std::max(first, between) + milliseconds(1'000));
    const std::weak_ptr<Flight> flight = weak_from_this();
    const std::weak_ptr<Attempt> held = attempt;
    attempt->call = up_.client().send_here(
        std::move(out), {.on_connect =
                             [flight](const std::string& address) {
                               if (const auto self = flight.lock()) self->up_.connected(address);
                             },
                         .on_head =
                             [flight, held](int status, const net::Headers& headers) {
                               with(flight, held, [&](Flight& self, const Held& a) { self.head(a, status, headers); });
                             },
                         .on_data =
                             [flight, held](std::string_view piece) {
                               with(flight, held, [&](Flight& self, const Held& a) { self.data(a, piece); });
                             },
                         .on_done =
                             [flight, held](Status done) {
                               with(flight, held, [&](Flight& self, const Held& a) { self.done(a, std::move(done)); });
                             }});
    watch(attempt);
  }

  // One alarm for each attempt: where `due` moved later, it is looked at again when it rings.
  void watch(const Held& attempt) {
    attempt->rings = attempt->due;
    spend(std::move(attempt->alarm));
    attempt->alarm =
        up_.client().after_here(until(attempt->due), [flight = weak_from_this(), held = std::weak_ptr(attempt)] {
          with(flight, held, [](Flight& self, const Held& a) {
            if (a->due > a->rings) return self.watch(a);
            self.late(a);
          });
        });
  }

  void late(const Held& attempt) {
    if (finished_) return tell_end();
    const bool ours = Clock::now() >= ends_;
    const bool begun = attempt->teller.begun();
    const auto limit = begun ? up_.options.between_tokens_timeout : up_.options.first_token_timeout;
    Failure failure{
        .failed = {.error = {Code::deadline,
                             ours ? fmt::format("the upstream '{}' did not end its answer in the time given",
                                                up_.options.name)
                                  : fmt::format("the upstream '{}' gave no {}token within {} ms", up_.options.name,
                                                begun ? "further " : "", limit.count())},
                   .status = 504,
                   .reason = "upstream_timeout"},
        .retry = !ours};
    fail(attempt, std::move(failure));
  }

  void head(const Held& attempt, int status, const net::Headers& headers) {
    attempt->status = status;
    if (status != 200) {
      attempt->headers = headers;
      return;
    }
    const auto encoding = net::find_header(headers, "content-encoding");
    if (!encoding.empty() && !net::equals_ignoring_case(encoding, "identity"))
      return fail(attempt, nonsense(up_.options.name, "a compressed answer, which was not asked for"));
    attempt->reader = up_.wire().reader(asked_->request, headers, attempt->teller);
  }

  void data(const Held& attempt, std::string_view piece) {
    if (finished_) return;
    if (attempt->reader == nullptr) {
      if (attempt->error_body.size() < kMaxErrorBody) attempt->error_body.append(piece.substr(0, kMaxErrorBody));
      return;
    }
    attempt->reader->read(piece);
    deliver(attempt);
  }

  void done(const Held& attempt, Status status) {
    if (finished_) return tell_end();
    if (!status) {
      if (attempt->status == 0 && status.error().code == Code::unavailable) up_.unreachable();
      return fail(attempt, failure_of_call(up_.options.name, status.error(), attempt->status != 0));
    }
    if (attempt->reader == nullptr)
      return fail(attempt, failure_of_answer(up_.options.name, attempt->status, attempt->headers, attempt->error_body));
    attempt->reader->end();
    ended_ = true;
    deliver(attempt);
  }

  // Gives the sink what the reader has found.
  void deliver(const Held& attempt) {
    Teller& teller = attempt->teller;
    if (teller.begun() && attempts_.size() > 1) keep_only(attempt);
    auto events = teller.take();
    if (!events.empty()) attempt->due = std::min(Clock::now() + up_.options.between_tokens_timeout, ends_);
    if (attempt->due < attempt->rings) watch(attempt);
    for (engine::Event& event : events) {
      if (std::holds_alternative<engine::Finished>(event)) {
        finished_ = std::move(std::get<engine::Finished>(event));
        break;
      }
      if (!std::exchange(begun_, true)) {  // there is no further attempt
        id_ = asked_->request.id;
        asked_ = nullptr;
      }
      sink_.on(std::move(event));
      if (over_) return;  // the sink dropped its ticket
    }
    if (teller.failure()) return fail(attempt, *teller.failure());
    if (!finished_) return;
    if (ended_) return tell_end();
    attempt->due = Clock::now() + kLinger;
    watch(attempt);
  }

  void tell_end() {
    finish();
    sink_.on(std::move(*finished_));
  }

  // The first token decides between an attempt and its hedge.
  void keep_only(const Held& winner) {
    for (const Held& attempt : std::exchange(attempts_, {winner}))
      if (attempt != winner) retire(*attempt);
    spend(std::move(hedge_));
  }

  void retire(Attempt& attempt) {
    if (std::exchange(attempt.extra, false)) up_.budget.give_back();
    spend(std::move(attempt.alarm));
    spend(std::move(attempt.call));
  }

  void spend(std::unique_ptr<net::Call> call) {
    if (call != nullptr) spent_.push_back(std::move(call));
  }

  void hedge() {
    if (begun_ || attempts_.size() != 1 || made_ >= up_.options.max_attempts || !up_.budget.take()) return;
    up_.metrics.hedges.add();
    launch(true);
  }

  void fail(const Held& attempt, Failure failure) {
    retire(*attempt);
    std::erase(attempts_, attempt);
    if (!begun_ && !attempts_.empty()) return;  // the other may still answer
    if (failure.unseen && unseen_ < kMostUnseen) ++unseen_;
    if (!begun_ && failure.retry && retry(failure.failed.retry_after)) return;
    up_.metrics.failures.add();
    log::info("upstream_failed", {{"upstream", up_.options.name},
                                  {"id", asked_ ? asked_->request.id : id_},
                                  {"attempts", made_},
                                  {"status", attempt->status},
                                  {"why", failure.failed.error.message}});
    finish();
    sink_.on(std::move(failure.failed));
  }

  bool retry(milliseconds at_least) {
    if (made_ - unseen_ >= up_.options.max_attempts || at_least > kMaxRetryWait) return false;
    const milliseconds wait = std::max(at_least, backoff(made_, up_.options.retry_base, up_.options.retry_cap, dice()));
    if (Clock::now() + wait >= ends_ || !up_.budget.take()) return false;
    up_.metrics.retries.add();
    waits_ = true;
    spend(std::move(pause_));
    pause_ = after(wait, [](Flight& self) {
      self.waits_ = false;
      self.launch(true);
    });
    return true;
  }

  // Nothing is told after it, but by who called it.
  void finish() {
    if (std::exchange(over_, true)) return;
    for (const Held& attempt : attempts_)
      if (std::exchange(attempt->extra, false)) up_.budget.give_back();
    if (std::exchange(waits_, false)) up_.budget.give_back();
    up_.budget.ended();
    up_.metrics.running.add(-1);
  }

  UpstreamState& up_;                   // the ticket holds it
  std::unique_ptr<const Asked> asked_;  // until the sink has heard something
  engine::Sink& sink_;
  const Clock::time_point ends_;

  std::recursive_mutex mutex_;
  std::vector<Held> attempts_;  // under way; GUARDED_BY(mutex_), as is all below
  int made_ = 0;
  int unseen_ = 0;      // of those, that the upstream did not look at: they are no attempts
  std::string id_;      // of the request, once begun
  bool begun_ = false;  // the sink has heard something: there is no other attempt any more
  bool ended_ = false;  // the HTTP answer is whole
  bool over_ = false;
  bool waits_ = false;                        // for the next attempt, whose part of the budget is taken
  std::optional<engine::Finished> finished_;  // told when the HTTP answer is whole, too
  std::unique_ptr<net::Call> hedge_, pause_;
  std::vector<std::unique_ptr<net::Call>> spent_;
  int holds_ = 0;  // of the thread that has the lock
};

class FlightTicket final : public engine::Ticket {
 public:
  FlightTicket(std::shared_ptr<UpstreamState> upstream, std::shared_ptr<Flight> flight)
      : upstream_(std::move(upstream)), flight_(std::move(flight)) {}
  ~FlightTicket() override { flight_->drop(); }

 private:
  const std::shared_ptr<UpstreamState> upstream_;
  const std::shared_ptr<Flight> flight_;
};

}  // namespace

std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> take_off(
    std::shared_ptr<UpstreamState> upstream, engine::Request&& request, std::string model, engine::Sink& sink) {
  auto order = upstream->wire().ask(request, model);
  if (!order) return std::unexpected(engine::Generator::Refusal{.error = std::move(order).error()});
  auto flight = std::make_shared<Flight>(*upstream, std::move(request), std::move(*order), sink);
  flight->begin();
  return std::make_unique<FlightTicket>(std::move(upstream), std::move(flight));
}

}  // namespace ashlar::gateway
